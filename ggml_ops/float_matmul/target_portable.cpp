#define SIMD_TARGET portable
#define SIMD_VECTOR "vector_portable.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace float_matmul {

extern const Target target_portable = {
    "portable",           simd::cpu_is_any,       portable::scratch_bytes(),
    portable::panel_rows, portable::tile_columns, portable::column_bytes,
    portable::convert,    portable::multiply,     portable::finish,
};

}  // namespace float_matmul
