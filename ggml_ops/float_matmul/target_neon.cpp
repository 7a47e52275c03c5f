#define SIMD_TARGET neon
#define SIMD_VECTOR "vector_neon.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace float_matmul {

extern const Target target_neon = {
    "neon",        simd::cpu_is_any, neon::scratch_bytes(), neon::panel_rows, neon::tile_columns, neon::column_bytes,
    neon::convert, neon::multiply,   neon::finish,
};

}  // namespace float_matmul
