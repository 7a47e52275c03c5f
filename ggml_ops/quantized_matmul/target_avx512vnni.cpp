#define SIMD_TARGET avx512vnni
#define SIMD_VECTOR "vector_avx512.h"
#define MATMUL_BYTES "bytes_avx512.h"
#define MATMUL_BLOCK "block_avx512.h"
#define MATMUL_GRIDS "entries_avx512.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace quantized_matmul {

extern const Target target_avx512vnni = {
    "avx512vnni",           simd::cpu_has_avx512vnni,         avx512vnni::panel_bytes(),
    avx512vnni::panel_rows, avx512vnni::quantize_activations, avx512vnni::multiply,
};

}  // namespace quantized_matmul
