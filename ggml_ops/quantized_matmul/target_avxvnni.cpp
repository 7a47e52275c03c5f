#include <immintrin.h>

#define MATMUL_TARGET avxvnni
#define SIMD_VECTOR "vector_avx2.h"
#define MATMUL_BYTES "bytes_avx2.h"
#define MATMUL_VNNI
#include "kernels.h"

#include "../simd/cpu.h"

namespace matmul {

extern const Target target_avxvnni;
const Target target_avxvnni = {
    "avxvnni", simd::cpu_has_avxvnni, avxvnni::panel_bytes(), avxvnni::panel_rows, avxvnni::quantize, avxvnni::multiply,
};

}  // namespace matmul
