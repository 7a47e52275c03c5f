// GEMM, for large batches: some rows of weights become a panel of bytes, four of a row beside those of the next row, so
// that a vector holds as many rows as it has lanes and a column's four bytes are the same for all of them. The panel
// stays in the cache for all columns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "activations.h"
#include "bytes.h"
#include "formats/all.h"
#include "quantized_matmul.h"
#include "read_ahead.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline constexpr int panel_rows = tile_vectors * lanes;
inline constexpr int panel_blocks = 8;  // super-blocks of each row: 64 or 32 KiB of bytes
inline constexpr int max_scales = super_block / 16;

using PanelRow = float[panel_rows];

struct Panel {
    alignas(64) std::uint8_t q[panel_blocks][super_block / 4][panel_rows][4];
    float scales[panel_blocks][max_scales][panel_rows];
    float mins[panel_blocks][max_scales][panel_rows];
    // A block of each row before it is transposed. Moving bits about, floats stand for any four bytes.
    float row_q[panel_rows][super_block / 4];
    float row_scales[panel_rows][max_scales];
    float row_mins[panel_rows][max_scales];
};

constexpr std::size_t panel_bytes() { return sizeof(Panel); }

// Columns of `row` become rows of `out`.
template <int Columns, std::size_t Width>
void transpose_rows(const float (&row)[panel_rows][Width], float (*out)[panel_rows]) {
    for (int v = 0; v < panel_rows; v += lanes) {
        for (int i = 0; i < Columns; i += lanes) {
            F square[lanes];
            for (int r = 0; r < lanes; ++r) square[r] = load(row[v + r] + i);
            transpose(square);
            for (int r = 0; r < std::min(lanes, Columns); ++r) store(out[i + r] + v, square[r]);
        }
    }
}

template <class Weights>
void fill_row(const std::uint8_t* p, Panel& panel, int r) {
    constexpr int count = super_block / Weights::values_per_scale;
    const Weights weights(p);
    B q[vectors];
    weights.template unpack<0>(q);
    for (int i = 0; i < vectors; ++i) store_bytes(panel.row_q[r] + i * (width / 4), q[i]);
    weights.template unpack<1>(q);
    for (int i = 0; i < vectors; ++i) store_bytes(panel.row_q[r] + (half_block + i * width) / 4, q[i]);
    F floats[vectors_for(count)];
    weights.scales(floats);
    for (int i = 0; i < vectors_for(count); ++i) store(panel.row_scales[r] + i * lanes, floats[i]);
    if constexpr (Weights::has_mins) {
        weights.mins(floats);
        for (int i = 0; i < vectors_for(count); ++i) store(panel.row_mins[r] + i * lanes, floats[i]);
    }
}

// The blocks that the panel after this one takes of the same row, or of the row as far below as the panel is high.
template <class Weights>
std::int64_t next_panel_step(const Job& job, std::int64_t block) {
    if (block + panel_blocks < job.k / super_block) return panel_blocks * super_block_bytes<Weights>();
    return panel_rows * static_cast<std::int64_t>(job.row_step) - block * super_block_bytes<Weights>();
}

// Missing rows repeat the last one.
template <class Weights>
void fill_panel(const Job& job, std::int64_t row, std::int64_t block, std::int64_t blocks, Panel& panel) {
    constexpr int count = super_block / Weights::values_per_scale;
    const std::int64_t next = next_panel_step<Weights>(job, block);
    for (std::int64_t b = 0; b < blocks; ++b) {
        for (int r = 0; r < panel_rows; ++r) {
            const std::int64_t at = std::min(row + r, job.rows - 1);
            const std::uint8_t* const p = job.weights + at * job.row_step + (block + b) * super_block_bytes<Weights>();
            read_ahead_of_panel(p + next, super_block_bytes<Weights>());
            fill_row<Weights>(p, panel, r);
        }
        transpose_rows<super_block / 4>(panel.row_q, reinterpret_cast<PanelRow*>(panel.q[b]));
        transpose_rows<count>(panel.row_scales, panel.scales[b]);
        if constexpr (Weights::has_mins) transpose_rows<count>(panel.row_mins, panel.mins[b]);
    }
}

template <class Weights>
inline I dot_of(I sum, B a, B b) {
    if constexpr (Weights::narrow) return dot(sum, a, b);
    return dot_wide(sum, a, b);
}

// The sums over the values of one scale: lanes are rows.
template <class Weights, int Columns>
inline void dots(const std::uint8_t (*q)[panel_rows][4], const std::uint8_t* const (&x)[Columns],
                 I (&sum)[tile_vectors][Columns]) {
    constexpr int steps = Weights::values_per_scale / 4;
    for (int v = 0; v < tile_vectors; ++v) {
        for (int c = 0; c < Columns; ++c) sum[v][c] = zero_sums();
    }
    if constexpr (sums_in_lanes || !Weights::narrow) {
        for (int s = 0; s < steps; ++s) {
            B w[tile_vectors];
            for (int v = 0; v < tile_vectors; ++v) w[v] = load_bytes(q[s][v * lanes]);
            for (int c = 0; c < Columns; ++c) {
                const B four = four_bytes(x[c] + arranged_offset(4 * s));
                for (int v = 0; v < tile_vectors; ++v) sum[v][c] = dot_of<Weights>(sum[v][c], w[v], four);
            }
        }
    } else {
        // 2 * 2 * 63 * 127 < 2^15; longer sums of narrower bytes turned out slower.
        constexpr int together = Weights::most <= 63 ? 2 : 1;
        for (int first = 0; first < steps; first += together) {
            B words[tile_vectors][Columns];
            for (int s = first; s < first + together; ++s) {
                B w[tile_vectors];
                for (int v = 0; v < tile_vectors; ++v) w[v] = load_bytes(q[s][v * lanes]);
                for (int c = 0; c < Columns; ++c) {
                    const B four = four_bytes(x[c] + arranged_offset(4 * s));
                    for (int v = 0; v < tile_vectors; ++v) {
                        const B sums = pairs(w[v], four);
                        words[v][c] = s == first ? sums : add_pairs(words[v][c], sums);
                    }
                }
            }
            for (int v = 0; v < tile_vectors; ++v) {
                for (int c = 0; c < Columns; ++c) sum[v][c] = sum[v][c] + widen(words[v][c]);
            }
        }
    }
}

// One tile of the result: the rows of the panel times some columns, over the blocks of the panel. Adds to `total`.
template <class Weights, int Columns>
void multiply_tile(const Panel& panel, std::int64_t block, std::int64_t blocks,
                   const std::uint8_t* const (&columns)[Columns], std::int64_t k, float (&total)[Columns][panel_rows]) {
    constexpr int count = super_block / Weights::values_per_scale;
    for (std::int64_t b = 0; b < blocks; ++b) {
        const ColumnOffsets at = offsets_of<Weights>(k, block + b);
        F sum[tile_vectors][Columns];
        for (int v = 0; v < tile_vectors; ++v) {
            for (int c = 0; c < Columns; ++c) sum[v][c] = zero();
        }
        for (int j = 0; j < count; ++j) {
            const std::uint8_t* x[Columns];
            const std::int64_t first = at.q + arranged_offset(j * Weights::values_per_scale);
            for (int c = 0; c < Columns; ++c) x[c] = columns[c] + first;
            I integers_sum[tile_vectors][Columns];
            dots<Weights, Columns>(&panel.q[b][j * (Weights::values_per_scale / 4)], x, integers_sum);
            for (int v = 0; v < tile_vectors; ++v) {
                const F scale = load(panel.scales[b][j] + v * lanes);
                for (int c = 0; c < Columns; ++c) {
                    if constexpr (column_scale_of_32<Weights>) {
                        const F both = scale * set(floats_at(columns[c], at.scale)[j]);
                        sum[v][c] = fma(to_float(integers_sum[v][c]), both, sum[v][c]);
                    } else {
                        sum[v][c] = fma(to_float(integers_sum[v][c]), scale, sum[v][c]);
                    }
                }
            }
        }
        for (int c = 0; c < Columns; ++c) {
            for (int v = 0; v < tile_vectors; ++v) {
                F result = load(total[c] + v * lanes);
                if constexpr (column_scale_of_32<Weights>) {
                    result = result + sum[v][c];
                } else {
                    result = fma(sum[v][c], set(*floats_at(columns[c], at.scale)), result);
                }
                sum[v][c] = result;
            }
        }
        if constexpr (Weights::has_mins) {
            for (int j = 0; j < count; ++j) {
                for (int v = 0; v < tile_vectors; ++v) {
                    const F minimum = -load(panel.mins[b][j] + v * lanes);
                    for (int c = 0; c < Columns; ++c) {
                        sum[v][c] = fma(minimum, set(floats_at(columns[c], at.sums)[j]), sum[v][c]);
                    }
                }
            }
        }
        for (int c = 0; c < Columns; ++c) {
            for (int v = 0; v < tile_vectors; ++v) store(total[c] + v * lanes, sum[v][c]);
        }
    }
}

template <class Weights, int Columns>
void gemm_columns(const Job& job, const Panel& panel, std::int64_t row, std::int64_t block, std::int64_t blocks,
                  std::int64_t column) {
    const std::uint8_t* columns[Columns];
    for (int c = 0; c < Columns; ++c) columns[c] = job.columns[column + c];
    const auto size = static_cast<std::size_t>(std::min<std::int64_t>(panel_rows, job.rows - row)) * sizeof(float);
    alignas(64) float total[Columns][panel_rows] = {};
    if (block > 0) {
        for (int c = 0; c < Columns; ++c) std::memcpy(total[c], job.out[column + c] + row, size);
    }
    multiply_tile<Weights, Columns>(panel, block, blocks, columns, job.k, total);
    for (int c = 0; c < Columns; ++c) std::memcpy(job.out[column + c] + row, total[c], size);
}

// A tile of `count` columns, at most `Columns`.
template <class Weights, int Columns = tile_columns>
void gemm_tile(const Job& job, const Panel& panel, std::int64_t row, std::int64_t block, std::int64_t blocks,
               std::int64_t column, std::int64_t count) {
    if (count == Columns) {
        gemm_columns<Weights, Columns>(job, panel, row, block, blocks, column);
    } else if constexpr (Columns > 1) {
        gemm_tile<Weights, Columns - 1>(job, panel, row, block, blocks, column, count);
    }
}

template <class Weights>
void gemm(const Job& job) {
    Panel& panel = *reinterpret_cast<Panel*>(job.scratch);
    const std::int64_t all_blocks = job.k / super_block;
    const std::int64_t tiles = (job.batch_size + tile_columns - 1) / tile_columns;
    for (std::int64_t row = 0; row < job.rows; row += panel_rows) {
        for (std::int64_t block = 0; block < all_blocks; block += panel_blocks) {
            const std::int64_t blocks = std::min<std::int64_t>(panel_blocks, all_blocks - block);
            fill_panel<Weights>(job, row, block, blocks, panel);
            // Tiles of nearly the same number of columns: a small one takes nearly as long as a large one.
            for (std::int64_t tile = 0; tile < tiles; ++tile) {
                const std::int64_t first = job.batch_size * tile / tiles;
                const std::int64_t end = job.batch_size * (tile + 1) / tiles;
                gemm_tile<Weights>(job, panel, row, block, blocks, first, end - first);
            }
        }
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
