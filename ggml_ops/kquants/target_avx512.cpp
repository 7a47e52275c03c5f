#define SIMD_TARGET avx512
#define SIMD_VECTOR "vector_avx512.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace kquants {

extern const Target target_avx512 = {"avx512", simd::cpu_has_avx512, avx512::formats, avx512::find_non_finite};

}  // namespace kquants
