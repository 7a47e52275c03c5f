// The kernels of one target. Its source file defines SIMD_TARGET and SIMD_VECTOR (see simd/vector.h), and
// FLOAT_MATMUL_BF16 if the target has dot products of BF16, and includes this.
#pragma once

#include "columns.h"
#include "elements.h"
#include "finish.h"
#include "float_matmul.h"
#include "gemm.h"
#include "gemv.h"

namespace float_matmul::SIMD_TARGET {
namespace {

// Up to here a row is multiplied as it is; beyond, a panel pays off.
inline constexpr std::int64_t max_gemv_batch = 4 * gemv_columns;

void multiply(const Job& job) {
    for_format(job.format, [&job](auto elements) {
        using Elements = decltype(elements);
        if (job.batch_size > max_gemv_batch) gemm<Elements>(job);
        else gemv<Elements>(job);
    });
}

}  // namespace
}  // namespace float_matmul::SIMD_TARGET
