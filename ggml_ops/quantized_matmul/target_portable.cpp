#define SIMD_TARGET portable
#define SIMD_VECTOR "vector_portable.h"
#define MATMUL_BYTES "bytes_portable.h"
#include "plain/kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace quantized_matmul {

extern const Target target_portable = {
    "portable",         simd::cpu_is_any, portable::panel_bytes(), portable::panel_rows, portable::quantize_activations,
    portable::multiply,
};

}  // namespace quantized_matmul
