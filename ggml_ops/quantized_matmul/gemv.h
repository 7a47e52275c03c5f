// GEMV, for small batches: each row of weights is decoded once, block by block, and multiplied with all columns.
#pragma once

#if !defined(MATMUL_BLOCK)
#define MATMUL_BLOCK "block.h"
#endif

#include <cstdint>

#include "activations.h"
#include "formats/all.h"
#include "quantized_matmul.h"
#include "read_ahead.h"
#include "rows.h"
#include MATMUL_BLOCK

namespace quantized_matmul::SIMD_TARGET {
namespace {

template <class Weights, int Columns>
void gemv(const Job& job) {
    const std::uint8_t* columns[Columns];
    for (int c = 0; c < Columns; ++c) columns[c] = job.columns[c];
    const ColumnParts<activations_of<Weights>> parts(job.k);
    const std::int64_t blocks = job.k / super_block;
    for (std::int64_t r = 0; r < job.rows; ++r) {
        const std::uint8_t* const row = job.weights + r * job.row_step;
        F sum[Columns];
        for (int c = 0; c < Columns; ++c) sum[c] = zero();
        for (std::int64_t b = 0; b < blocks; ++b) {
            const std::uint8_t* const p = row + b * super_block_bytes<Weights>();
            prefetch_block<Weights>(p);
            Block<Weights>(p).add(parts, b, columns, sum);
        }
        if constexpr (may_end_early<Weights>) {
            if (blocks < blocks_of(job.k)) {
                const LastBlock<Weights> last(row, job.k);
                Block<Weights>(last.bytes).add(parts, blocks, columns, sum);
            }
        }
        for (int c = 0; c < Columns; ++c) job.out[c][r] = total(sum[c]);
    }
}

// All columns of a batch, at most `Columns`.
template <class Weights, int Columns = max_gemv_batch<Weights>>
void gemv_batch(const Job& job) {
    if (job.batch_size == Columns) {
        gemv<Weights, Columns>(job);
    } else if constexpr (Columns > 1) {
        gemv_batch<Weights, Columns - 1>(job);
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
