#define SIMD_TARGET avxvnni
#define SIMD_VECTOR "vector_avx2.h"
#define MATMUL_BYTES "bytes_avx2.h"
#define MATMUL_GRIDS "entries_avx2.h"
#define MATMUL_VNNI
#define MATMUL_BLOCK "block.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace quantized_matmul {

extern const Target target_avxvnni = {
    "avxvnni",           simd::cpu_has_avxvnni,         avxvnni::panel_bytes(),
    avxvnni::panel_rows, avxvnni::quantize_activations, avxvnni::multiply,
};

}  // namespace quantized_matmul
