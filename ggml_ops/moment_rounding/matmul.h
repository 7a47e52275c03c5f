// Matmuls of a symmetric matrix with what columns changed by, which is where the time goes. Each sum adds one term
// after the other, in the order of the columns, whatever is packed or read together.
#pragma once

#include <cstring>

#include "../simd/repeat.h"
#include "tile.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

// The kernel: sum[r][t] += packed[row(m)][r] * factor[t][m] over m in order.
template <int Width, int Count, class Row>
inline void multiply(const float* packed, const F* const (&factor)[Count], std::int64_t count, const Row& row,
                     F (&sum)[Width][Count]) {
    F total[Width][Count];
    repeat<Width>([&](auto r) { repeat<Count>([&](auto t) { total[r][t] = sum[r][t]; }); });
    for (std::int64_t m = 0; m < count; ++m) {
        const float* from = packed + row(m) * Width;
        F f[Count];
        repeat<Count>([&](auto t) { f[t] = factor[t][m]; });
        repeat<Width>([&](auto r) {
            const F element = set(from[r]);
            repeat<Count>([&](auto t) { total[r][t] = fused(f[t], element, total[r][t]); });
        });
    }
    repeat<Width>([&](auto r) { repeat<Count>([&](auto t) { sum[r][t] = total[r][t]; }); });
}

// Rows that follow each other, and rows of a list.
inline auto in_order(std::int64_t first) {
    return [first](std::int64_t m) { return first + m; };
}
inline auto listed(const int* rows) {
    return [rows](std::int64_t m) { return static_cast<std::int64_t>(rows[m]); };
}

// Copies rows, `stride` apart, in parts of `Width` columns: to[part][row][Width]; the last part ends with zeros. Rows
// are on pages of their own, which the processor does not foresee.
template <int Width>
inline void pack(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns, float* to) {
    for (std::int64_t row = 0; row < rows; ++row, from += stride) {
        constexpr int ahead = 16;
        for (std::int64_t line = 0; line < columns; line += floats_per_line) prefetch(from + ahead * stride + line);
        float* out = to + row * Width;
        std::int64_t j = 0;
        for (; j + Width <= columns; j += Width, out += rows * Width) std::memcpy(out, from + j, Width * sizeof(float));
        if (j == columns) continue;
        std::fill_n(out, Width, 0.F);
        std::copy_n(from + j, columns - j, out);
    }
}

template <int Count>
inline void hear_part(const Tile* tile, const float* packed, std::int64_t rows, std::int64_t j) {
    const F* change[Count];
    F sum[width][Count];
    repeat<Count>([&](auto t) { change[t] = tile[t].change; });
    repeat<width>([&](auto r) { repeat<Count>([&](auto t) { sum[r][t] = tile[t].slope[j + r]; }); });
    multiply<width, Count>(packed, change, rows, in_order(0), sum);
    repeat<width>([&](auto r) { repeat<Count>([&](auto t) { tile[t].slope[j + r] = sum[r][t]; }); });
}

// Columns first..first+count-1, a panel, hear of the errors of columns from..to-1 of the same rows: the sums are
// added to tile.slope. The matrix is symmetric, `n` wide. What is packed serves all tiles.
inline void hear(Tiles tiles, const Shared& shared, const float* matrix, std::int64_t n, std::int64_t first,
                 std::int64_t count, std::int64_t from, std::int64_t to) {
    for (std::int64_t i = from; i < to; i += panel) {
        const std::int64_t rows = std::min<std::int64_t>(panel, to - i);
        for (const Tile& tile : tiles)
            for (std::int64_t m = 0; m < rows; ++m) tile.change[m] = tile.decoded[i + m] - tile.w[i + m];
        for (std::int64_t part = 0; part < count; part += some) {
            const std::int64_t columns = std::min<std::int64_t>(some, count - part);
            pack<width>(matrix + i * n + first + part, n, rows, columns, shared.far);
            const Tile* tile = tiles.begin();
            const auto all_columns = [&](auto hear_some) {
                for (std::int64_t j = 0; j < columns; j += width) hear_some(shared.far + j * rows, part + j);
            };
            for (; tile + 2 <= tiles.end(); tile += 2)
                all_columns([&](const float* packed, std::int64_t j) { hear_part<2>(tile, packed, rows, j); });
            for (; tile < tiles.end(); ++tile)
                all_columns([&](const float* packed, std::int64_t j) { hear_part<1>(tile, packed, rows, j); });
        }
    }
}

// A panel and its own part of the matrix, packed.
struct Panel {
    static constexpr int part = 8;  // columns; a multiple of it are in every group
    std::int64_t first;
    std::int64_t count;
    const float* near;

    float at(std::int64_t i, std::int64_t j) const { return near[(j / part * count + i) * part + j % part]; }
};

inline Panel panel_of(const Shared& shared, const float* matrix, std::int64_t n, std::int64_t first,
                      std::int64_t count) {
    pack<Panel::part>(matrix + first * n + first, n, count, count, shared.near);
    return {first, count, shared.near};
}

// What changes of `count` columns of a panel mean for its columns from..to-1, multiples of Panel::part: added to out.
template <class Row>
inline void spread(const F* change, std::int64_t count, const Row& row, const Panel& panel, std::int64_t from,
                   std::int64_t to, F* out) {
    for (std::int64_t j = from; j < to; j += Panel::part) {
        F sum[Panel::part][1];
        repeat<Panel::part>([&](auto r) { sum[r][0] = out[j + r]; });
        multiply<Panel::part, 1>(panel.near + j * panel.count, {change}, count, row, sum);
        repeat<Panel::part>([&](auto r) { out[j + r] = sum[r][0]; });
    }
}

// The error of each lane of a panel's columns, with each other and, twice, with the columns before them: tile.below
// has what they hear from these. The sum of it over panels is the error of the row.
inline F error_of(const Tile& tile, const Panel& panel) {
    for (std::int64_t i = 0; i < panel.count; ++i) {
        tile.change[i] = tile.decoded[panel.first + i] - tile.w[panel.first + i];
        tile.reach[i] = zero();
    }
    spread(tile.change, panel.count, in_order(0), panel, 0, panel.count, tile.reach);
    F error = zero();
    for (std::int64_t i = 0; i < panel.count; ++i)
        error = error + tile.change[i] * ((tile.below[i] + tile.below[i]) + tile.reach[i]);
    return error;
}

// Calls work(panel) for one panel after the other; tile.slope has then what it hears from the columns before it.
template <class Work>
inline void each_panel(Tiles tiles, const Shared& shared, const float* matrix, const Work& work) {
    const std::int64_t n = tiles.begin()->columns;
    for (std::int64_t first = 0; first < n; first += panel) {
        const std::int64_t count = std::min<std::int64_t>(panel, n - first);
        for (const Tile& tile : tiles) std::fill_n(tile.slope, count, zero());
        hear(tiles, shared, matrix, n, first, count, 0, first);
        work(panel_of(shared, matrix, n, first, count));
    }
}

// Writes the error of each lane of each tile.
inline void measure(Tiles tiles, const Shared& shared, const float* moments, F* errors) {
    std::fill_n(errors, tiles.size(), zero());
    each_panel(tiles, shared, moments, [&](const Panel& own) {
        for (std::size_t i = 0; i < tiles.size(); ++i) {
            const Tile& tile = tiles.begin()[i];
            std::copy_n(tile.slope, own.count, tile.below);
            errors[i] = errors[i] + error_of(tile, own);
        }
    });
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
