// What changes of some columns mean for others: out[j] += sum over i of change[i] * matrix[j][i], the sums in the order
// of i. Four j at a time share the loads of the changes.
#pragma once

#include "tile.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

// Columns first..first+count-1 changed; columns from..to-1 hear of it. The matrix is symmetric, `n` wide.
inline void spread(const F* change, const float* matrix, std::int64_t n, std::int64_t first, std::int64_t count,
                   std::int64_t from, std::int64_t to, F* out) {
    std::int64_t j = from;
    for (; j + 4 <= to; j += 4) {
        const float* row = matrix + j * n + first;
        F a = out[j], b = out[j + 1], c = out[j + 2], d = out[j + 3];
        for (std::int64_t i = 0; i < count; ++i) {
            a = a + change[i] * set(row[i]);
            b = b + change[i] * set(row[n + i]);
            c = c + change[i] * set(row[2 * n + i]);
            d = d + change[i] * set(row[3 * n + i]);
        }
        out[j] = a, out[j + 1] = b, out[j + 2] = c, out[j + 3] = d;
    }
    for (; j < to; ++j) {
        const float* row = matrix + j * n + first;
        F a = out[j];
        for (std::int64_t i = 0; i < count; ++i) a = a + change[i] * set(row[i]);
        out[j] = a;
    }
}

// One column i changed; `row` is that of the matrix, from column `from` on.
inline void spread_one(F change, const float* row, std::int64_t count, F* out) {
    for (std::int64_t j = 0; j < count; ++j) out[j] = out[j] + change * set(row[j]);
}

// The same for tiles, from the change of each to `out` of each. Some columns hear of it from all tiles before the next
// ones do: the part of the matrix that they need stays in the cache meanwhile. The sums are those of `spread`.
inline void spread_all(Tiles tiles, const float* matrix, std::int64_t n, std::int64_t first, std::int64_t count,
                       std::int64_t from, std::int64_t to, F* Tile::* out) {
    constexpr std::int64_t some = 32;
    for (std::int64_t j = from; j < to; j += some)
        for (const Tile& tile : tiles)
            spread(tile.change, matrix, n, first, count, j, std::min(j + some, to), tile.*out);
}

// Computes all slopes anew; writes the error of each lane of each tile.
inline void measure(Tiles tiles, const float* moments, F* errors) {
    for (const Tile& tile : tiles) std::fill_n(tile.slope, tile.columns, zero());
    const std::int64_t n = tiles.begin()->columns;
    for (std::int64_t first = 0; first < n; first += panel) {
        const std::int64_t count = std::min<std::int64_t>(panel, n - first);
        for (const Tile& tile : tiles)
            for (std::int64_t i = 0; i < count; ++i) tile.change[i] = tile.decoded[first + i] - tile.w[first + i];
        spread_all(tiles, moments, n, first, count, 0, n, &Tile::slope);
    }
    for (const Tile& tile : tiles) {
        F error = zero();
        for (std::int64_t i = 0; i < n; ++i) error = error + (tile.decoded[i] - tile.w[i]) * tile.slope[i];
        *errors++ = error;
    }
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
