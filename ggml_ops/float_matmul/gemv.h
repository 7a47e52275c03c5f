// GEMV, for small batches: four rows of weights times some columns in registers, each weight loaded once for all of
// these columns. Further columns find the rows in the cache. The sum of a row and a column is the same whatever the
// batch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "columns.h"
#include "elements.h"

namespace float_matmul::SIMD_TARGET {
namespace {

inline constexpr int gemv_rows = 4;
inline constexpr int gemv_columns = lanes == 8 ? 3 : 6;  // AVX2 has half as many registers as the others

// Up to here a batch is bound by memory, which delivers one row after another faster than four beside each other.
inline constexpr std::int64_t max_streamed_batch = 2;

template <class Elements, int Rows, int Columns>
void gemv_tile(const Job& job, std::size_t column_step, std::int64_t row, std::int64_t column) {
    using Weight = typename Elements::Weight;
    constexpr int step = lanes * Elements::values;
    const std::uint8_t* w[Rows];
    const std::uint8_t* x[Columns];
    F sum[Rows][Columns];
    for (int r = 0; r < Rows; ++r) w[r] = job.weights + (row + r) * job.row_step;
    for (int c = 0; c < Columns; ++c) x[c] = job.columns + (column + c) * column_step;
    for (int r = 0; r < Rows; ++r) {
        for (int c = 0; c < Columns; ++c) sum[r][c] = zero();
    }
    const auto add = [&](const F(&weights)[Rows], std::int64_t i) {
        for (int c = 0; c < Columns; ++c) {
            const F values = simd::load(reinterpret_cast<const float*>(x[c]) + i / Elements::values);
            for (int r = 0; r < Rows; ++r) sum[r][c] = Elements::multiply(weights[r], values, sum[r][c]);
        }
    };
    std::int64_t i = 0;
    for (; i + step <= job.k; i += step) {
        F weights[Rows];
        for (int r = 0; r < Rows; ++r) {
            const Weight* const p = reinterpret_cast<const Weight*>(w[r]) + i;
            if constexpr (Rows > 1) {
                prefetch(
                    reinterpret_cast<const float*>(reinterpret_cast<const std::uint8_t*>(p) + Rows * job.row_step));
            }
            weights[r] = Elements::load(p);
        }
        add(weights, i);
    }
    if (i < job.k) {
        F weights[Rows];
        for (int r = 0; r < Rows; ++r) {
            weights[r] = load_last<Elements>(reinterpret_cast<const Weight*>(w[r]) + i, job.k - i);
        }
        add(weights, i);
    }
    for (int c = 0; c < Columns; ++c) {
        float* const out = job.out[column + c] + row;
        if constexpr (Rows == 4) {
            float total[4];
            sums({sum[0][c], sum[1][c], sum[2][c], sum[3][c]}, total);
            std::copy_n(total, 4, out);
        } else {
            float total[4];
            sums({sum[0][c], zero(), zero(), zero()}, total);
            out[0] = total[0];
        }
    }
}

template <class Elements, int Rows>
void gemv_columns_of(const Job& job, std::size_t column_step, std::int64_t row, std::int64_t column, int count) {
    switch (count) {
        case 1: return gemv_tile<Elements, Rows, 1>(job, column_step, row, column);
        case 2: return gemv_tile<Elements, Rows, 2>(job, column_step, row, column);
        case 3: return gemv_tile<Elements, Rows, 3>(job, column_step, row, column);
        case 4: return gemv_tile<Elements, Rows, std::min(4, gemv_columns)>(job, column_step, row, column);
        case 5: return gemv_tile<Elements, Rows, std::min(5, gemv_columns)>(job, column_step, row, column);
        default: return gemv_tile<Elements, Rows, std::min(6, gemv_columns)>(job, column_step, row, column);
    }
}

template <class Elements>
void gemv(const Job& job) {
    const std::size_t column_step = column_bytes(job.format, job.k);
    const std::int64_t passes = (job.batch_size + gemv_columns - 1) / gemv_columns;
    std::int64_t row = 0;
    while (row < job.rows) {
        const bool four = job.batch_size > max_streamed_batch && row + gemv_rows <= job.rows;
        for (std::int64_t pass = 0; pass < passes; ++pass) {  // of about the same number of columns each
            const std::int64_t first = pass * job.batch_size / passes;
            const int count = static_cast<int>((pass + 1) * job.batch_size / passes - first);
            if (four) gemv_columns_of<Elements, gemv_rows>(job, column_step, row, first, count);
            else gemv_columns_of<Elements, 1>(job, column_step, row, first, count);
        }
        row += four ? gemv_rows : 1;
    }
}

}  // namespace
}  // namespace float_matmul::SIMD_TARGET
