// GEMM on NEON, for large batches: panels of rows, which stay in the cache, times all columns, tile by tile. The header
// MATMUL_GEMM has the instruction, as `Dots`:
//   row_bytes              of a row that are together in a panel, beside those of the next one
//   columns_together       of a vector of sums, whose lanes are rows, with each of them these columns
//   of_columns(numbers)    such a vector: a number of each column, the same for all rows
//   add<Values>(q, x, sums)  adds Values bytes of the rows at q times those of the columns at x
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_neon.h"
#endif
#if !defined(MATMUL_GEMM)
#define MATMUL_GEMM "gemm_neondot.h"
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../quantized_matmul.h"
#include "block.h"
#include MATMUL_GEMM

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline constexpr int panel_rows = 8;
inline constexpr int panel_blocks = 8;  // super-blocks of each row
inline constexpr int tile_columns = 4;
inline constexpr int together = Dots::columns_together;
inline constexpr int tile_groups = tile_columns / together;
inline constexpr int tile_vectors = panel_rows * together / lanes;

// A number of each row, repeated for the columns of a vector.
using OfRows = float[panel_rows][together];

struct Panel {
    alignas(64) std::int8_t q[panel_blocks][super_block / Dots::row_bytes][panel_rows][Dots::row_bytes];
    OfRows scales[panel_blocks][super_block / 16];
    OfRows mins[panel_blocks][super_block / 16];
};

constexpr std::size_t panel_bytes() { return sizeof(Panel); }

// A super-block of row r.
template <class Layout>
void put_row(const Block& decoded, std::int64_t b, int r, Panel& panel) {
    constexpr int bytes = Dots::row_bytes;
    for (int i = 0; i < super_block / bytes; ++i) std::memcpy(panel.q[b][i][r], decoded.q + bytes * i, bytes);
    for (int j = 0; j < scale_count<Layout>; ++j) {
        std::fill_n(panel.scales[b][j][r], together, decoded.scales[j]);
        if constexpr (Layout::has_mins) std::fill_n(panel.mins[b][j][r], together, decoded.mins[j]);
    }
}

// Missing rows repeat the last one.
template <class Layout>
void fill_panel(const Job& job, std::int64_t row, std::int64_t block, std::int64_t blocks, Panel& panel) {
    for (std::int64_t b = 0; b < blocks; ++b) {
        for (int r = 0; r < panel_rows; ++r) {
            const std::int64_t from = std::min(row + r, job.rows - 1) * static_cast<std::int64_t>(job.row_step);
            Block decoded;
            decode_block<Layout>(job.weights + from, job.k, block + b, decoded);
            put_row<Layout>(decoded, b, r, panel);
        }
    }
}

template <class T>
using Tile = T[tile_vectors][tile_groups];

template <class T>
void fill_tile(Tile<T>& tile, T value) {
    for (auto& of_rows : tile) std::fill(of_rows, of_rows + tile_groups, value);
}

inline F load_rows(const OfRows& rows, int vector) { return load(&rows[0][0] + vector * lanes); }

// The vector of the group's columns: number(c) of each.
template <class Function>
[[gnu::always_inline]] inline F of_group(int group, const Function& number) {
    float numbers[together];
    for (int i = 0; i < together; ++i) numbers[i] = number(group * together + i);
    return Dots::of_columns(numbers);
}

// Adds the b-th super-block of the panel times that of some columns.
template <class Layout>
[[gnu::always_inline]] inline void add_super_block(const Panel& panel, std::int64_t b,
                                                   const ColumnBlock<Layout> (&columns)[tile_columns], Tile<F>& total) {
    using Column = ColumnBlock<Layout>;
    constexpr int values = Layout::values_per_scale;
    const auto scales = [&](int c, int j) { return of_group(c, [&](int i) { return columns[i].scale(j); }); };
    Tile<F> sum;
    fill_tile(sum, zero());
    for (int j = 0; j < Column::count; ++j) {
        const std::uint8_t* x[tile_columns];
        for (int c = 0; c < tile_columns; ++c) x[c] = columns[c].q() + j * values;
        Tile<I> products;
        fill_tile(products, zero_sums());
        Dots::add<values>(panel.q[b] + j * values / Dots::row_bytes, x, products);
        for (int v = 0; v < tile_vectors; ++v) {
            const F scale = load_rows(panel.scales[b][j], v);
            for (int c = 0; c < tile_groups; ++c) {
                const F both = Column::scale_of_32 ? scale * scales(c, j) : scale;
                sum[v][c] = fma(to_float(products[v][c]), both, sum[v][c]);
            }
        }
    }
    for (int c = 0; c < tile_groups; ++c) {
        const F scale = Column::scale_of_32 ? set(1.F) : scales(c, 0);
        for (int v = 0; v < tile_vectors; ++v) total[v][c] = fma(sum[v][c], scale, total[v][c]);
    }
    if constexpr (Layout::has_mins) {
        for (int j = 0; j < Column::count; ++j) {
            for (int c = 0; c < tile_groups; ++c) {
                const F sums = of_group(c, [&](int i) { return columns[i].minus_sum(j); });
                for (int v = 0; v < tile_vectors; ++v) {
                    total[v][c] = fma(load_rows(panel.mins[b][j], v), sums, total[v][c]);
                }
            }
        }
    }
}

// The rows of the panel times some columns, over the blocks of the panel.
template <class Layout>
void compute_tile(const Panel& panel, std::int64_t block, std::int64_t blocks,
                  const std::uint8_t* const (&columns)[tile_columns], std::int64_t k,
                  float (&out)[tile_columns][panel_rows]) {
    using Column = ColumnBlock<Layout>;
    static_assert(tile_columns == 4);
    const ColumnParts<Column::kind> parts(k);
    Tile<F> total;
    fill_tile(total, zero());
    for (std::int64_t b = 0; b < blocks; ++b) {
        const auto column = [&](int c) { return Column{columns[c], parts, block + b}; };
        add_super_block<Layout>(panel, b, {column(0), column(1), column(2), column(3)}, total);
    }
    for (int c = 0; c < tile_groups; ++c) {
        float of_rows[panel_rows][together];
        for (int v = 0; v < tile_vectors; ++v) store(&of_rows[0][0] + v * lanes, total[v][c]);
        for (int r = 0; r < panel_rows; ++r) {
            for (int i = 0; i < together; ++i) out[c * together + i][r] = of_rows[r][i];
        }
    }
}

// Columns from `column` on, as many as a tile has or the batch still has; missing ones repeat the last one.
template <class Layout>
void gemm_tile(const Job& job, const Panel& panel, std::int64_t row, std::int64_t block, std::int64_t blocks,
               std::int64_t column) {
    const std::uint8_t* columns[tile_columns];
    for (int c = 0; c < tile_columns; ++c) columns[c] = job.columns[std::min(column + c, job.batch_size - 1)];
    float tile[tile_columns][panel_rows];
    compute_tile<Layout>(panel, block, blocks, columns, job.k, tile);
    const auto last_column = std::min<std::int64_t>(tile_columns, job.batch_size - column);
    const auto last_row = std::min<std::int64_t>(panel_rows, job.rows - row);
    for (std::int64_t c = 0; c < last_column; ++c) {
        float* const out = job.out[column + c] + row;
        for (std::int64_t r = 0; r < last_row; ++r) out[r] = (block > 0 ? out[r] : 0.F) + tile[c][r];
    }
}

template <class Layout>
void gemm(const Job& job) {
    Panel& panel = *reinterpret_cast<Panel*>(job.scratch);
    const std::int64_t all_blocks = blocks_of(job.k);
    for (std::int64_t row = 0; row < job.rows; row += panel_rows) {
        for (std::int64_t block = 0; block < all_blocks; block += panel_blocks) {
            const std::int64_t blocks = std::min<std::int64_t>(panel_blocks, all_blocks - block);
            fill_panel<Layout>(job, row, block, blocks, panel);
            for (std::int64_t column = 0; column < job.batch_size; column += tile_columns) {
                gemm_tile<Layout>(job, panel, row, block, blocks, column);
            }
        }
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
