#define SIMD_TARGET avx512
#define SIMD_VECTOR "vector_avx512.h"
#define ATTENTION_PAIRS "pairs_avx512.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace attention {

extern const Target target_avx512 = {
    "avx512", simd::cpu_has_avx512, avx512::state_floats, avx512::scratch_bytes, avx512::attend, avx512::finish,
};

}  // namespace attention
