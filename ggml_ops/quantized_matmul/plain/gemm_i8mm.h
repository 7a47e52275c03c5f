// GEMM for large batches with the matrix products of Armv8.6 (I8MM): an instruction multiplies two rows of weights by
// two columns, eight values of each. Rows become a panel of pairs, eight bytes of a row beside those of the next one.
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_neon.h"
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../bytes.h"
#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline constexpr int panel_rows = 8;
inline constexpr int panel_blocks = 8;  // super-blocks of each row
inline constexpr int row_pairs = panel_rows / 2;
inline constexpr int column_pairs = 2;  // of a tile
inline constexpr int tile_columns = 2 * column_pairs;

// Lanes of a sum: both columns with the first row, then with the second.
using PairOfRows = float[2][2];

struct Panel {
    alignas(64) std::int8_t q[panel_blocks][super_block / 8][row_pairs][2][8];
    PairOfRows scales[panel_blocks][super_block / 16][row_pairs];
    PairOfRows mins[panel_blocks][super_block / 16][row_pairs];
};

constexpr std::size_t panel_bytes() { return sizeof(Panel); }

// A super-block of a row.
template <class Layout>
void put_row(const Block& decoded, std::int64_t b, int r, Panel& panel) {
    const int pair = r / 2, member = r % 2;
    for (int i = 0; i < super_block / 8; ++i) std::memcpy(panel.q[b][i][pair][member], decoded.q + 8 * i, 8);
    for (int j = 0; j < scale_count<Layout>; ++j) {
        for (int c = 0; c < 2; ++c) {
            panel.scales[b][j][pair][member][c] = decoded.scales[j];
            if constexpr (Layout::has_mins) panel.mins[b][j][pair][member][c] = decoded.mins[j];
        }
    }
}

inline F load_rows(const PairOfRows& rows) { return load(&rows[0][0]); }
// A float of each of two columns, for both rows.
inline F two_columns(float first, float second) {
    const float32x2_t both = vset_lane_f32(second, vdup_n_f32(first), 1);
    return {vcombine_f32(both, both)};
}
inline B two_columns_of_eight(const std::uint8_t* first, const std::uint8_t* second) {
    return {vreinterpretq_s8_u8(vcombine_u8(vld1_u8(first), vld1_u8(second)))};
}

// The rows of the panel times two pairs of columns, over the blocks of the panel.
template <class Layout>
void multiply_tile(const Panel& panel, std::int64_t block, std::int64_t blocks,
                   const std::uint8_t* const (&columns)[tile_columns], std::int64_t k,
                   F (&total)[row_pairs][column_pairs]) {
    using Column = ColumnBlock<Layout>;
    constexpr int steps = Layout::values_per_scale / 8;
    const ColumnParts<Column::kind> parts(k);
    for (std::int64_t b = 0; b < blocks; ++b) {
        const auto column = [&](int c) { return Column{columns[c], parts, block + b}; };
        const auto scales = [&](int c, int j) {
            return two_columns(column(2 * c).scale(j), column(2 * c + 1).scale(j));
        };
        F sum[row_pairs][column_pairs];
        for (auto& of_rows : sum) std::fill(of_rows, of_rows + column_pairs, zero());
        for (int j = 0; j < Column::count; ++j) {
            I products[row_pairs][column_pairs];
            for (auto& of_rows : products) std::fill(of_rows, of_rows + column_pairs, zero_sums());
            for (int s = j * steps; s < (j + 1) * steps; ++s) {
                for (int c = 0; c < column_pairs; ++c) {
                    const B x = two_columns_of_eight(column(2 * c).q() + 8 * s, column(2 * c + 1).q() + 8 * s);
                    for (int r = 0; r < row_pairs; ++r) {
                        products[r][c].v = vmmlaq_s32(products[r][c].v, load_bytes(panel.q[b][s][r]).v, x.v);
                    }
                }
            }
            for (int c = 0; c < column_pairs; ++c) {
                for (int r = 0; r < row_pairs; ++r) {
                    F scale = load_rows(panel.scales[b][j][r]);
                    if constexpr (Column::scale_of_32) scale = scale * scales(c, j);
                    sum[r][c] = fma(to_float(products[r][c]), scale, sum[r][c]);
                }
            }
        }
        for (int c = 0; c < column_pairs; ++c) {
            for (int r = 0; r < row_pairs; ++r) {
                if constexpr (Column::scale_of_32) total[r][c] = total[r][c] + sum[r][c];
                else total[r][c] = fma(sum[r][c], scales(c, 0), total[r][c]);
            }
            if constexpr (Layout::has_mins) {
                for (int j = 0; j < Column::count; ++j) {
                    const F sums = two_columns(column(2 * c).minus_sum(j), column(2 * c + 1).minus_sum(j));
                    for (int r = 0; r < row_pairs; ++r) {
                        total[r][c] = fma(load_rows(panel.mins[b][j][r]), sums, total[r][c]);
                    }
                }
            }
        }
    }
}

// Rows of the panel times the columns of a tile, over the blocks of the panel.
template <class Layout>
void compute_tile(const Panel& panel, std::int64_t block, std::int64_t blocks,
                  const std::uint8_t* const (&columns)[tile_columns], std::int64_t k,
                  float (&out)[tile_columns][panel_rows]) {
    F total[row_pairs][column_pairs];
    for (auto& of_rows : total) std::fill(of_rows, of_rows + column_pairs, zero());
    multiply_tile<Layout>(panel, block, blocks, columns, k, total);
    for (int r = 0; r < row_pairs; ++r) {
        for (int c = 0; c < column_pairs; ++c) {
            PairOfRows lanes_of_pair;
            store(&lanes_of_pair[0][0], total[r][c]);
            for (int i = 0; i < 4; ++i) out[2 * c + i % 2][2 * r + i / 2] = lanes_of_pair[i / 2][i % 2];
        }
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
