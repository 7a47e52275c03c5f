#define SIMD_TARGET neon
#define SIMD_VECTOR "vector_neon.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace delta_net {

extern const Target target_neon = {
    "neon", simd::cpu_is_any, neon::lanes, neon::scratch_floats, neon::gated_delta_rule, neon::causal_conv1d_silu,
};

}  // namespace delta_net
