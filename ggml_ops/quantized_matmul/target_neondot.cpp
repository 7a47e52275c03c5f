#define SIMD_TARGET neondot
#define SIMD_VECTOR "vector_neon.h"
#define MATMUL_BYTES "bytes_neon.h"
#define MATMUL_GEMM "gemm_neondot.h"
#include "plain/kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace quantized_matmul {

extern const Target target_neondot = {
    "neondot",           simd::cpu_has_neon_dot,        neondot::panel_bytes(),
    neondot::panel_rows, neondot::quantize_activations, neondot::multiply,
};

}  // namespace quantized_matmul
