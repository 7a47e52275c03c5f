#define SIMD_TARGET avxvnni
#define SIMD_VECTOR "vector_avx2.h"
#define ATTENTION_PAIRS "pairs_avx2.h"
#define ATTENTION_VNNI
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace attention {

extern const Target target_avxvnni = {
    "avxvnni", simd::cpu_has_avxvnni, avxvnni::state_floats, avxvnni::scratch_bytes, avxvnni::attend, avxvnni::finish,
};

}  // namespace attention
