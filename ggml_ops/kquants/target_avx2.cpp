#define SIMD_TARGET avx2
#define SIMD_VECTOR "vector_avx2.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace kquants {

extern const Target target_avx2 = {"avx2", simd::cpu_has_avx2, avx2::formats, avx2::find_non_finite};

}  // namespace kquants
