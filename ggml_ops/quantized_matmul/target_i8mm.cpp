#define SIMD_TARGET i8mm
#define SIMD_VECTOR "vector_neon.h"
#define MATMUL_BYTES "bytes_neon.h"
#define MATMUL_GEMM "gemm_i8mm.h"
#include "plain/kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace quantized_matmul {

extern const Target target_i8mm = {
    "i8mm", simd::cpu_has_i8mm, i8mm::panel_bytes(), i8mm::panel_rows, i8mm::quantize_activations, i8mm::multiply,
};

}  // namespace quantized_matmul
