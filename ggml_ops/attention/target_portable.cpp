#define SIMD_TARGET portable
#define SIMD_VECTOR "vector_portable.h"
#define ATTENTION_PAIRS "pairs_none.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace attention {

extern const Target target_portable = {
    "portable", simd::cpu_is_any, portable::state_floats, portable::scratch_bytes, portable::attend, portable::finish,
};

}  // namespace attention
