// GEMM for large batches with the dot products of Armv8.2 (dotprod): an instruction multiplies four bytes of each of
// four rows of weights with four bytes of a column. Rows become a panel, four bytes of a row beside those of the next
// one.
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_neon.h"
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../../simd/repeat.h"
#include "../bytes.h"
#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline constexpr int panel_rows = 8;
inline constexpr int panel_blocks = 8;  // super-blocks of each row
inline constexpr int row_vectors = panel_rows / lanes;
inline constexpr int tile_columns = 4;

struct Panel {
    alignas(64) std::int8_t q[panel_blocks][super_block / 4][panel_rows][4];
    float scales[panel_blocks][super_block / 16][panel_rows];
    float mins[panel_blocks][super_block / 16][panel_rows];
};

constexpr std::size_t panel_bytes() { return sizeof(Panel); }

// A super-block of a row.
template <class Layout>
void put_row(const Block& decoded, std::int64_t b, int r, Panel& panel) {
    for (int i = 0; i < super_block / 4; ++i) std::memcpy(panel.q[b][i][r], decoded.q + 4 * i, 4);
    for (int j = 0; j < scale_count<Layout>; ++j) {
        panel.scales[b][j][r] = decoded.scales[j];
        if constexpr (Layout::has_mins) panel.mins[b][j][r] = decoded.mins[j];
    }
}

// Lanes are rows.
template <class T>
using Tile = T[row_vectors][tile_columns];

template <class T>
void fill_tile(Tile<T>& tile, T value) {
    for (auto& of_rows : tile) std::fill(of_rows, of_rows + tile_columns, value);
}

// Adds the dot products of 16 bytes of each row, from q on, with those of each column.
[[gnu::always_inline]] inline void add_16(const std::int8_t (*q)[panel_rows][4],
                                          const std::uint8_t* const (&x)[tile_columns], Tile<I>& products) {
    B sixteen[tile_columns];
    for (int c = 0; c < tile_columns; ++c) sixteen[c] = load_bytes(x[c]);
    repeat<4>([&](auto four) {
        for (int v = 0; v < row_vectors; ++v) {
            const B weights = load_bytes(q[four][v * lanes]);
            for (int c = 0; c < tile_columns; ++c) {
                products[v][c].v = vdotq_laneq_s32(products[v][c].v, weights.v, sixteen[c].v, four);
            }
        }
    });
}

// The rows of the panel times some columns, over the blocks of the panel.
template <class Layout>
void compute_tile(const Panel& panel, std::int64_t block, std::int64_t blocks,
                  const std::uint8_t* const (&columns)[tile_columns], std::int64_t k,
                  float (&out)[tile_columns][panel_rows]) {
    using Column = ColumnBlock<Layout>;
    constexpr int values = Layout::values_per_scale;
    const ColumnParts<Column::kind> parts(k);
    Tile<F> total;
    fill_tile(total, zero());
    for (std::int64_t b = 0; b < blocks; ++b) {
        const auto column = [&](int c) { return Column{columns[c], parts, block + b}; };
        Tile<F> sum;
        fill_tile(sum, zero());
        for (int j = 0; j < Column::count; ++j) {
            Tile<I> products;
            fill_tile(products, zero_sums());
            for (int i = j * values; i < (j + 1) * values; i += 16) {
                const std::uint8_t* x[tile_columns];
                for (int c = 0; c < tile_columns; ++c) x[c] = column(c).q() + i;
                add_16(panel.q[b] + i / 4, x, products);
            }
            for (int v = 0; v < row_vectors; ++v) {
                const F scale = load(panel.scales[b][j] + v * lanes);
                for (int c = 0; c < tile_columns; ++c) {
                    const F both = Column::scale_of_32 ? scale * set(column(c).scale(j)) : scale;
                    sum[v][c] = fma(to_float(products[v][c]), both, sum[v][c]);
                }
            }
        }
        for (int c = 0; c < tile_columns; ++c) {
            const F scale = set(Column::scale_of_32 ? 1.F : column(c).scale(0));
            for (int v = 0; v < row_vectors; ++v) total[v][c] = fma(sum[v][c], scale, total[v][c]);
        }
        if constexpr (Layout::has_mins) {
            for (int j = 0; j < Column::count; ++j) {
                for (int v = 0; v < row_vectors; ++v) {
                    const F mins = load(panel.mins[b][j] + v * lanes);
                    for (int c = 0; c < tile_columns; ++c) {
                        total[v][c] = fma(mins, set(column(c).minus_sum(j)), total[v][c]);
                    }
                }
            }
        }
    }
    for (int c = 0; c < tile_columns; ++c) {
        for (int v = 0; v < row_vectors; ++v) store(out[c] + v * lanes, total[v][c]);
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
