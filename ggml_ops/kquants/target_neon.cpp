#define SIMD_TARGET neon
#define SIMD_VECTOR "vector_neon.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace kquants {

extern const Target target_neon = {"neon", simd::cpu_is_any, neon::formats, neon::find_non_finite};

}  // namespace kquants
