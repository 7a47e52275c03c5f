#define SIMD_TARGET avx512bf16
#define SIMD_VECTOR "vector_avx512.h"
#define FLOAT_MATMUL_BF16 "bf16_avx512.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace float_matmul {

extern const Target target_avx512bf16 = {
    "avx512bf16",           simd::cpu_has_avx512bf16, avx512bf16::scratch_bytes(),
    avx512bf16::panel_rows, avx512bf16::tile_columns, avx512bf16::column_bytes,
    avx512bf16::convert,    avx512bf16::multiply,     avx512bf16::finish,
};

}  // namespace float_matmul
