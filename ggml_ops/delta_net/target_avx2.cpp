#define SIMD_TARGET avx2
#define SIMD_VECTOR "vector_avx2.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace delta_net {

extern const Target target_avx2 = {
    "avx2", simd::cpu_has_avx2, avx2::lanes, avx2::scratch_floats, avx2::gated_delta_rule, avx2::causal_conv1d_silu,
};

}  // namespace delta_net
