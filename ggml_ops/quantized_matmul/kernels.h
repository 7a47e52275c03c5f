// The kernels of one target. Its source file defines SIMD_TARGET and SIMD_VECTOR (see simd/vector.h), MATMUL_BYTES and
// MATMUL_BLOCK, the header of how GEMV multiplies a super-block, and includes this.
#pragma once

#include "formats/all.h"
#include "gemm.h"
#include "gemv.h"
#include "quantize_activations.h"
#include "quantized_matmul.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// GEMM costs more for each row and less for each column: about ten columns make up for the difference. GEMV is limited
// by the number of registers before that.
void multiply(const Job& job) {
    for_format(job.format, [&job](auto weights) {
        using Weights = typename decltype(weights)::type;
        job.batch_size <= max_gemv_batch<Weights> ? gemv_batch<Weights>(job) : gemm<Weights>(job);
    });
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
