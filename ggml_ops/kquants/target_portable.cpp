#define SIMD_TARGET portable
#define SIMD_VECTOR "vector_portable.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace kquants {

extern const Target target_portable = {"portable", simd::cpu_is_any, portable::formats, portable::find_non_finite};

}  // namespace kquants
