#define SIMD_TARGET portable
#define SIMD_VECTOR "vector_portable.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace delta_net {

extern const Target target_portable = {
    "portable",
    simd::cpu_is_any,
    portable::lanes,
    portable::scratch_floats,
    portable::gated_delta_rule,
    portable::causal_conv1d_silu,
};

}  // namespace delta_net
