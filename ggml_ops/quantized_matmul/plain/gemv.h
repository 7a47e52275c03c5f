// Rows times up to six columns: each row of weights is decoded once, block by block, and multiplied with all columns.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../quantized_matmul.h"
#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// A super-block of a row times some columns, in lanes; `correction` is that of the mins.
template <class Layout, int Columns>
void add_block(const Block& block, const std::uint8_t* const* columns,
               const ColumnParts<ColumnBlock<Layout>::kind>& parts, std::int64_t b, F (&sum)[Columns],
               float (&correction)[Columns]) {
    using Column = ColumnBlock<Layout>;
    constexpr int values = Layout::values_per_scale;
    F of_block[Columns];
    for (int c = 0; c < Columns; ++c) of_block[c] = zero();
    for (int j = 0; j < Column::count; ++j) {
        B q[values / width];
        for (int i = 0; i < values / width; ++i) q[i] = load_bytes(block.q + values * j + width * i);
        for (int c = 0; c < Columns; ++c) {
            const Column column{columns[c], parts, b};
            const std::uint8_t* const x = column.q() + values * j;
            I products = zero_sums();
            for (int i = 0; i < values / width; ++i) products = dot(products, q[i], load_bytes(x + width * i));
            const float scale = Column::scale_of_32 ? block.scales[j] * column.scale(j) : block.scales[j];
            of_block[c] = fma(to_float(products), set(scale), of_block[c]);
            if constexpr (Layout::has_mins) correction[c] += block.mins[j] * column.minus_sum(j);
        }
    }
    for (int c = 0; c < Columns; ++c) {
        const float scale = Column::scale_of_32 ? 1.F : Column{columns[c], parts, b}.scale(0);
        sum[c] = fma(of_block[c], set(scale), sum[c]);
    }
}

template <class Layout, int Columns>
void gemv(const Job& job, std::int64_t first) {
    const ColumnParts<ColumnBlock<Layout>::kind> parts(job.k);
    for (std::int64_t r = 0; r < job.rows; ++r) {
        const std::uint8_t* const row = job.weights + r * static_cast<std::int64_t>(job.row_step);
        F sum[Columns];
        float correction[Columns] = {};
        for (int c = 0; c < Columns; ++c) sum[c] = zero();
        for (std::int64_t b = 0; b < blocks_of(job.k); ++b) {
            Block block;
            decode_block<Layout>(row, job.k, b, block);
            add_block<Layout, Columns>(block, job.columns + first, parts, b, sum, correction);
        }
        for (int c = 0; c < Columns; ++c) job.out[first + c][r] = total(sum[c]) + correction[c];
    }
}

inline constexpr int max_gemv_batch = 6;

// `count` columns, at most `Columns`.
template <class Layout, int Columns = max_gemv_batch>
void gemv_columns(const Job& job, std::int64_t first, std::int64_t count) {
    if (count == Columns) {
        gemv<Layout, Columns>(job, first);
    } else if constexpr (Columns > 1) {
        gemv_columns<Layout, Columns - 1>(job, first, count);
    }
}

template <class Layout>
void gemv_batch(const Job& job) {
    for (std::int64_t c = 0; c < job.batch_size; c += max_gemv_batch) {
        gemv_columns<Layout>(job, c, std::min<std::int64_t>(max_gemv_batch, job.batch_size - c));
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
