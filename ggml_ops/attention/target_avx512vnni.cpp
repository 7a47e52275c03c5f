#define SIMD_TARGET avx512vnni
#define SIMD_VECTOR "vector_avx512.h"
#define ATTENTION_PAIRS "pairs_avx512.h"
#define ATTENTION_VNNI
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace attention {

extern const Target target_avx512vnni = {
    "avx512vnni",       simd::cpu_has_avx512vnni, avx512vnni::state_floats, avx512vnni::scratch_bytes,
    avx512vnni::attend, avx512vnni::finish,
};

}  // namespace attention
