#define SIMD_TARGET avx2
#define SIMD_VECTOR "vector_avx2.h"
#define ATTENTION_PAIRS "pairs_avx2.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace attention {

extern const Target target_avx2 = {
    "avx2", simd::cpu_has_avx2, avx2::state_floats, avx2::scratch_bytes, avx2::attend, avx2::finish,
};

}  // namespace attention
