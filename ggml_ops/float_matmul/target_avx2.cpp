#define SIMD_TARGET avx2
#define SIMD_VECTOR "vector_avx2.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace float_matmul {

extern const Target target_avx2 = {
    "avx2",        simd::cpu_has_avx2, avx2::scratch_bytes(), avx2::panel_rows, avx2::tile_columns, avx2::column_bytes,
    avx2::convert, avx2::multiply,     avx2::finish,
};

}  // namespace float_matmul
