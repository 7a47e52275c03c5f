#define SIMD_TARGET avx2
#define SIMD_VECTOR "vector_avx2.h"
#define MATMUL_BYTES "bytes_avx2.h"
#define MATMUL_BLOCK "block.h"
#define MATMUL_GRIDS "entries_avx2.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace quantized_matmul {

extern const Target target_avx2 = {
    "avx2", simd::cpu_has_avx2, avx2::panel_bytes(), avx2::panel_rows, avx2::quantize_activations, avx2::multiply,
};

}  // namespace quantized_matmul
