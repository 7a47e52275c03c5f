#define SIMD_TARGET neon
#define SIMD_VECTOR "vector_neon.h"
#define ATTENTION_PAIRS "pairs_none.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace attention {

extern const Target target_neon = {
    "neon", simd::cpu_is_any, neon::state_floats, neon::scratch_bytes, neon::attend, neon::finish,
};

}  // namespace attention
