// The kernels of one target. Its source file defines SIMD_TARGET and SIMD_VECTOR (see simd/vector.h), MATMUL_BYTES and
// MATMUL_GEMV, the header of its kernel for small batches, and includes this.
#pragma once

#if !defined(MATMUL_GEMV)
#define MATMUL_GEMV "gemv.h"
#endif

#include "formats/all.h"
#include "gemm.h"
#include "quantize_activations.h"
#include "quantized_matmul.h"
#include MATMUL_GEMV

namespace quantized_matmul::SIMD_TARGET {
namespace {

// GEMM costs more for each row and less for each column: about ten columns make up for the difference. GEMV is limited
// by the number of registers before that.
void multiply(const Job& job) {
    for_format(job.format, [&job](auto weights) {
        using Weights = typename decltype(weights)::type;
        job.batch_size <= max_gemv_batch ? gemv_batch<Weights>(job) : gemm<Weights>(job);
    });
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
