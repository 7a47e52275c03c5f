// The kernels of one target. Its source file defines SIMD_TARGET and SIMD_VECTOR (see simd/vector.h) and MATMUL_BYTES,
// and includes this.
#pragma once

#include "formats/all.h"
#include "gemm.h"
#include "gemv.h"
#include "quantize_activations.h"
#include "quantized_matmul.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

void multiply(const Job& job) {
    for_format(job.format, [&job](auto weights) {
        using Weights = typename decltype(weights)::type;
        if (job.batch_size > max_gemv_batch) return gemm<Weights>(job);
        gemv_batch<Weights>(job, 0, job.batch_size);
    });
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
