// H = M^T D M from the last column to the first, as L^T L with L = sqrt(D) M, a panel of rows at a time. In each
// element the rows are subtracted in descending order, whatever the width of the vectors.
#pragma once

#include <cmath>

#include "matmul.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

// Columns j.. of rows first..last-1, `Count` vectors, less what rows in a packed part explain: l has their columns
// first..last-1, `minus` their columns j.., negated.
template <int Count>
inline void update_columns(float* h, std::int64_t n, std::int64_t first, std::int64_t last, std::int64_t j,
                           const float* l, const F* const (&minus)[Count], std::int64_t rows) {
    for (std::int64_t i = first; i < last; i += width, l += rows * width) {
        F sum[width][Count];
        const std::int64_t whole = std::min<std::int64_t>(width, last - i);
        repeat<width>([&](auto r) {
            repeat<Count>([&](auto t) { sum[r][t] = r < whole ? load(h + (i + r) * n + j + t * lanes) : zero(); });
        });
        multiply<width, Count>(l, minus, rows, in_order(0), sum);
        for (std::int64_t r = 0; r < whole; ++r)
            for (int t = 0; t < Count; ++t) store(h + (i + r) * n + j + t * lanes, sum[r][t]);
    }
}

// Rows first..last-1, at most factor_panel, columns from..to-1: minus sum over k >= last of L_ki L_kj. Row i needs
// columns up to i only.
inline void update(float* h, std::int64_t n, std::int64_t first, std::int64_t last, std::int64_t from,
                   std::int64_t to) {
    constexpr std::int64_t most = 128;  // rows k at a time: what is packed of them stays in the first-level cache
    float l[most * (factor_panel + width)];
    F minus[2][most];
    for (std::int64_t end = n; end > last; end -= most) {
        const std::int64_t rows = std::min(most, end - last);
        const float* row = h + (end - 1) * n;
        pack<width>(row + first, -n, rows, last - first, l);
        std::int64_t j = from;
        for (; j + 2 * lanes <= to; j += 2 * lanes) {
            for (std::int64_t m = 0; m < rows; ++m) {
                minus[0][m] = -load(row - m * n + j);
                minus[1][m] = -load(row - m * n + j + lanes);
            }
            update_columns<2>(h, n, first, last, j, l, {minus[0], minus[1]}, rows);
        }
        for (; j + lanes <= to; j += lanes) {
            for (std::int64_t m = 0; m < rows; ++m) minus[0][m] = -load(row - m * n + j);
            update_columns<1>(h, n, first, last, j, l, {minus[0]}, rows);
        }
        for (; j < to; ++j) {
            for (std::int64_t i = first; i < last; ++i) {
                float a = h[i * n + j];
                for (std::int64_t m = 0; m < rows; ++m) a = simd::fused(-row[j - m * n], row[i - m * n], a);
                h[i * n + j] = a;
            }
        }
    }
}

// A pivot below `floor` counts as `floor`.
inline void eliminate(float* h, std::int64_t n, std::int64_t first, std::int64_t last, float floor) {
    for (std::int64_t k = last - 1; k >= first; --k) {
        float* row = h + k * n;
        const float root = std::sqrt(row[k] > floor ? row[k] : floor);
        for (std::int64_t j = 0; j < k; ++j) row[j] = row[j] / root;
        row[k] = root;
        for (std::int64_t i = first; i < k; ++i) {
            const float l = row[i];
            float* other = h + i * n;
            for (std::int64_t j = 0; j <= i; ++j) other[j] = other[j] - l * row[j];
        }
    }
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
