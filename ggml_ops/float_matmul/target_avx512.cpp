#define SIMD_TARGET avx512
#define SIMD_VECTOR "vector_avx512.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace float_matmul {

extern const Target target_avx512 = {
    "avx512",           simd::cpu_has_avx512, avx512::scratch_bytes(),
    avx512::panel_rows, avx512::tile_columns, avx512::column_bytes,
    avx512::convert,    avx512::multiply,     avx512::finish,
};

}  // namespace float_matmul
