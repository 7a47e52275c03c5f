#define SIMD_TARGET avx512
#define SIMD_VECTOR "vector_avx512.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace delta_net {

extern const Target target_avx512 = {
    "avx512",
    simd::cpu_has_avx512,
    avx512::lanes,
    avx512::scratch_floats,
    avx512::gated_delta_rule,
    avx512::causal_conv1d_silu,
};

}  // namespace delta_net
