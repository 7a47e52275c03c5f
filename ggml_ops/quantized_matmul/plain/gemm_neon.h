// GEMM on NEON, for large batches: panels of rows times all columns, tile by tile. The header MATMUL_GEMM has
//   panel_rows, panel_blocks, tile_columns, Panel, panel_bytes()
//   put_row(decoded, b, r, panel)                         a super-block of a row, as the b-th of row r of the panel
//   compute_tile(panel, block, blocks, columns, k, out)   the panel times the columns of a tile
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_neon.h"
#endif
#if !defined(MATMUL_GEMM)
#define MATMUL_GEMM "gemm_neondot.h"
#endif

#include <algorithm>
#include <cstdint>

#include "../quantized_matmul.h"
#include "block.h"
#include MATMUL_GEMM

namespace quantized_matmul::SIMD_TARGET {
namespace {

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
