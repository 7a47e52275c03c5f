#define SIMD_TARGET avx512
#define SIMD_VECTOR "vector_avx512.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace moment_rounding {

extern const Target target_avx512 = {
    "avx512",           simd::cpu_has_avx512, simd::avx512::lanes, avx512::scratch_floats,
    avx512::round_rows, avx512::update,       avx512::eliminate};

}  // namespace moment_rounding
