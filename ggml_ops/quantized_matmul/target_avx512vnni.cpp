#include <immintrin.h>

#define MATMUL_TARGET avx512vnni
#define SIMD_VECTOR "vector_avx512.h"
#define MATMUL_BYTES "bytes_avx512.h"
#include "kernels.h"

#include "../simd/cpu.h"

namespace matmul {

extern const Target target_avx512vnni;
const Target target_avx512vnni = {
    "avx512vnni",           simd::cpu_has_avx512vnni, avx512vnni::panel_bytes(),
    avx512vnni::panel_rows, avx512vnni::quantize,     avx512vnni::multiply,
};

}  // namespace matmul
