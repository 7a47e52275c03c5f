#include <arm_neon.h>

#define KQUANTS_TARGET neon
#define SIMD_VECTOR "vector_neon.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "target.h"

namespace kquants {

extern const Target target_neon = {"neon", simd::cpu_is_any, neon::formats, std::size(neon::formats), neon::find_non_finite};

}
