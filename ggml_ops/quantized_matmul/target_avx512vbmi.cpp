#define SIMD_TARGET avx512vbmi
#define SIMD_VECTOR "vector_avx512.h"
#define MATMUL_BYTES "bytes_avx512.h"
#define MATMUL_BLOCK "block_avx512.h"
#define MATMUL_GRIDS "entries_avx512vbmi.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace quantized_matmul {

extern const Target target_avx512vbmi = {
    "avx512vbmi",           simd::cpu_has_avx512vbmi,         avx512vbmi::panel_bytes(),
    avx512vbmi::panel_rows, avx512vbmi::quantize_activations, avx512vbmi::multiply,
};

}  // namespace quantized_matmul
