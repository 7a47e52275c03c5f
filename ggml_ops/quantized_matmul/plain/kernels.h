// The kernels of one target other than x86. Its source file defines SIMD_TARGET and SIMD_VECTOR (see simd/vector.h),
// MATMUL_BYTES and, if it has a kernel for large batches, MATMUL_GEMM, and includes this.
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_portable.h"
#endif

#include "../quantize_activations.h"
#include "../quantized_matmul.h"
#include "all.h"
#include "gemv.h"
#if defined(MATMUL_GEMM)
#include "gemm_neon.h"
#endif

namespace quantized_matmul::SIMD_TARGET {
namespace {

#if !defined(MATMUL_GEMM)
inline constexpr std::int64_t panel_rows = 16;
constexpr std::size_t panel_bytes() { return 0; }
template <class Layout>
void gemm(const Job& job) {
    gemv_batch<Layout>(job);
}
#endif

void multiply(const Job& job) {
    for_format(job.format, [&job](auto layout) {
        using Layout = typename decltype(layout)::type;
        job.batch_size <= max_gemv_batch ? gemv_batch<Layout>(job) : gemm<Layout>(job);
    });
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
