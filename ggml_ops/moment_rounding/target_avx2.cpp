#define SIMD_TARGET avx2
#define SIMD_VECTOR "vector_avx2.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace moment_rounding {

extern const Target target_avx2 = {"avx2",           simd::cpu_has_avx2, simd::avx2::lanes, avx2::scratch_floats,
                                   avx2::round_rows, avx2::update,       avx2::eliminate};

}  // namespace moment_rounding
