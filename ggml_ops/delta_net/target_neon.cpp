#include <arm_neon.h>

#define DELTA_NET_TARGET neon
#define SIMD_VECTOR "vector_neon.h"
#include "kernels.h"

#include "../simd/cpu.h"

namespace delta_net {

extern const Target target_neon;
const Target target_neon = {"neon",
                               simd::cpu_is_any,
                               neon::lanes,
                               neon::scratch_floats,
                               neon::gated_delta_rule,
                               neon::causal_conv1d_silu};

}
