// GEMM, for large batches: a panel of rows, which stays in the cache, times all columns, tile by tile.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../simd/repeat.h"
#include "activations.h"
#include "bytes.h"
#include "panel.h"
#include "quantized_matmul.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Lanes are rows of the panel.
template <class T, int Columns>
using Tile = T[tile_vectors][Columns];

// Calls f(v, c) for all vectors of a tile, with constants: else GCC keeps tiles in memory.
template <int Columns, class Function>
[[gnu::always_inline]] inline void for_tile(const Function& f) {
    repeat<tile_vectors>([&](auto v) { repeat<Columns>([&](auto c) { f(v, c); }); });
}

template <int Columns, class T>
[[gnu::always_inline]] inline void fill_tile(Tile<T, Columns>& tile, T value) {
    for_tile<Columns>([&](auto v, auto c) { tile[v][c] = value; });
}

// Adds the dot products of Values bytes of each row with each column: four bytes to a lane in one instruction.
template <class Weights, int Values, int Columns>
[[gnu::always_inline]] inline void add_dots(const std::uint8_t (*q)[panel_rows][4],
                                            const std::uint8_t* const (&x)[Columns], Tile<I, Columns>& sum) {
    constexpr int together = std::min(Values, 32);
    for (int first = 0; first < Values; first += together) {
        for (int s = 0; s < together / 4; ++s) {
            B w[tile_vectors];
            repeat<tile_vectors>([&](auto v) { w[v] = load_bytes(q[first / 4 + s][v * lanes]); });
            repeat<Columns>([&](auto c) {
                const B four = four_bytes(x[c] + column_offset<Weights>(first) + column_offset<Weights>(4 * s));
                repeat<tile_vectors>([&](auto v) { sum[v][c] = dot_of<Weights>(sum[v][c], w[v], four); });
            });
        }
    }
}

// Sums of pairs, of pairs ..., in 16 bits; Values is at most values_in_words.
template <class Weights, int Values, int Columns>
[[gnu::always_inline]] inline void pair_sums(const std::uint8_t (*q)[panel_rows][4],
                                             const std::uint8_t* const (&x)[Columns], Tile<B, Columns>& words) {
    repeat<Columns>([&](auto c) {
        const B four = four_bytes(x[c]);
        repeat<tile_vectors>([&](auto v) { words[v][c] = pairs(load_bytes(q[0][v * lanes]), four); });
    });
    for (int s = 1; s < Values / 4; ++s) {
        B w[tile_vectors];
        repeat<tile_vectors>([&](auto v) { w[v] = load_bytes(q[s][v * lanes]); });
        repeat<Columns>([&](auto c) {
            const B four = four_bytes(x[c] + column_offset<Weights>(4 * s));
            repeat<tile_vectors>([&](auto v) { words[v][c] = add_pairs(words[v][c], pairs(w[v], four)); });
        });
    }
}

// Adds dot products of a group of Values bytes, times a scale in words; without one they are widened only.
template <class Weights, int Values, int Columns>
[[gnu::always_inline]] inline void add_words(const std::uint8_t (*q)[panel_rows][4],
                                             const std::uint8_t* const (&x)[Columns], const float* scales,
                                             Tile<I, Columns>& sum) {
    constexpr int together = std::min(Values, values_in_words<Weights>());
    repeat<Values / together>([&](auto part) {
        constexpr int first = part * together;
        const std::uint8_t* at_first[Columns];
        repeat<Columns>([&](auto c) { at_first[c] = x[c] + column_offset<Weights>(first); });
        Tile<B, Columns> words;
        pair_sums<Weights, together, Columns>(q + first / 4, at_first, words);
        for_tile<Columns>([&](auto v, auto c) {
            sum[v][c] = scales ? scaled(sum[v][c], words[v][c], load_bytes(scales + v * lanes))
                               : now(sum[v][c] + widen(words[v][c]));
        });
    });
}

// The sums over the values of one scale.
template <class Weights, int Columns>
[[gnu::always_inline]] inline void group_sums(const std::uint8_t (*q)[panel_rows][4],
                                              const std::uint8_t* const (&x)[Columns],
                                              const std::int32_t* const (&starts)[Columns], int group,
                                              Tile<I, Columns>& sum) {
    using Kept = PanelOf<Weights>;
    constexpr int values = Kept::values_per_scale;
    const std::uint8_t* of_group[Columns];
    repeat<Columns>([&](auto c) {
        I start = zero_sums();
        if constexpr (Kept::starts_below) start = set(starts[c][group]);
        if constexpr (Kept::start_shift != 0) start = shift_right_signed<Kept::start_shift>(start);
        repeat<tile_vectors>([&](auto v) { sum[v][c] = start; });
        of_group[c] = x[c] + column_offset<Weights>(group * values);
    });
    const auto* const q_of_group = q + group * (values / 4);
    if constexpr (sums_in_lanes || !Weights::narrow) add_dots<Weights, values, Columns>(q_of_group, of_group, sum);
    else add_words<Weights, values, Columns>(q_of_group, of_group, nullptr, sum);
}

// Adds the dot product of the mins and the column's sums, times the factor of the mins.
template <class Weights, int Columns>
[[gnu::always_inline]] inline void add_mins(const Panel& panel, std::int64_t b,
                                            const std::int16_t* const (&minus_sums)[Columns], Tile<F, Columns>& sum) {
    Tile<I, Columns> products;
    fill_tile<Columns>(products, zero_sums());
    for (int j = 0; j < PanelOf<Weights>::mins; ++j) {
        repeat<Columns>([&](auto c) {
            const B two_words = four_bytes(minus_sums[c] + 2 * j);
            repeat<tile_vectors>([&](auto v) {
                products[v][c] = scaled(products[v][c], load_bytes(panel.mins[b][j] + v * lanes), two_words);
            });
        });
    }
    for_tile<Columns>([&](auto v, auto c) {
        sum[v][c] = fma(to_float(products[v][c]), load(panel.min_factor[b] + v * lanes), sum[v][c]);
    });
}

// The rows of the panel times some columns, over one super-block. Adds to `total`.
template <class Weights, int Columns>
[[gnu::always_inline]] inline void multiply_block(const Panel& panel, std::int64_t b, std::int64_t block,
                                                  const ColumnParts<Activations::q8_k>& parts,
                                                  const std::uint8_t* const (&columns)[Columns],
                                                  Tile<F, Columns>& total) {
    using Kept = PanelOf<Weights>;
    const std::uint8_t* x[Columns];
    const std::int32_t* starts[Columns];
    const std::int16_t* minus_sums[Columns];
    repeat<Columns>([&](auto c) {
        x[c] = columns[c] + block * super_block;
        starts[c] = at<std::int32_t>(columns[c], Kept::scales == 16  ? parts.starts_of_16
                                                 : Kept::scales == 8 ? parts.starts_of_32
                                                                     : parts.starts_of_256) +
                    block * Kept::scales;
        minus_sums[c] = Kept::values_per_min == 16 ? at<std::int16_t>(columns[c], parts.minus_sums_of_16) + block * 16
                                                   : at<std::int16_t>(columns[c], parts.minus_sums_of_32) + block * 8;
    });
    Tile<F, Columns> sum;
    Tile<I, Columns> integer_sum;
    if constexpr (Kept::folded || Kept::integer_scales) {
        if constexpr (Kept::folded) {
            group_sums<Weights, Columns>(panel.q[b], x, starts, 0, integer_sum);
        } else {
            fill_tile<Columns>(integer_sum, zero_sums());
            for (int j = 0; j < Kept::scales; ++j) {
                const std::uint8_t* of_group[Columns];
                repeat<Columns>([&](auto c) { of_group[c] = x[c] + j * Kept::values_per_scale; });
                add_words<Weights, Kept::values_per_scale, Columns>(panel.q[b] + j * (Kept::values_per_scale / 4),
                                                                    of_group, panel.scales[b][j], integer_sum);
            }
        }
        for_tile<Columns>(
            [&](auto v, auto c) { sum[v][c] = to_float(integer_sum[v][c]) * load(panel.factor[b] + v * lanes); });
    } else {
        fill_tile<Columns>(sum, zero());
        for (int j = 0; j < Kept::scales; ++j) {
            group_sums<Weights, Columns>(panel.q[b], x, starts, j, integer_sum);
            for_tile<Columns>([&](auto v, auto c) {
                sum[v][c] = fma(to_float(integer_sum[v][c]), load(panel.scales[b][j] + v * lanes), sum[v][c]);
            });
        }
    }
    if constexpr (Kept::min_pairs) add_mins<Weights, Columns>(panel, b, minus_sums, sum);
    repeat<Columns>([&](auto c) {
        const F scale = set(at<float>(columns[c], parts.scales)[block]);
        repeat<tile_vectors>([&](auto v) { total[v][c] = fma(sum[v][c], scale, total[v][c]); });
    });
}

// The same: columns with one scale for 32 values, q8_0 or q8_1.
template <class Weights, int Columns, Activations Kind>
[[gnu::always_inline]] inline void multiply_block(const Panel& panel, std::int64_t b, std::int64_t block,
                                                  const ColumnParts<Kind>& parts,
                                                  const std::uint8_t* const (&columns)[Columns],
                                                  Tile<F, Columns>& total) {
    using Kept = PanelOf<Weights>;
    const std::uint8_t* x[Columns];
    const std::int32_t* starts[Columns];
    repeat<Columns>([&](auto c) {
        x[c] = columns[c] + block * super_block;
        starts[c] = at<std::int32_t>(columns[c], parts.starts_of_32) + block * 8;
    });
    for (int j = 0; j < 8; ++j) {
        Tile<I, Columns> integer_sum;
        group_sums<Weights, Columns>(panel.q[b], x, starts, j, integer_sum);
        repeat<Columns>([&](auto c) {
            const F column_scale = set(at<float>(columns[c], parts.scales)[block * 8 + j]);
            repeat<tile_vectors>([&](auto v) {
                const F both = load(panel.scales[b][j] + v * lanes) * column_scale;
                total[v][c] = fma(to_float(integer_sum[v][c]), both, total[v][c]);
            });
        });
        if constexpr (Kept::float_mins) {
            repeat<Columns>([&](auto c) {
                const F minus_sum = set(at<float>(columns[c], parts.minus_sums)[block * 8 + j]);
                repeat<tile_vectors>(
                    [&](auto v) { total[v][c] = fma(load(panel.mins[b][j] + v * lanes), minus_sum, total[v][c]); });
            });
        }
    }
}

// One tile of the result: the rows of the panel times some columns, over the blocks of the panel.
template <class Weights, int Columns>
void gemm_columns(const Job& job, const Panel& panel, std::int64_t row, std::int64_t block, std::int64_t blocks,
                  std::int64_t column) {
    const ColumnParts<activations_of<Weights>> parts(job.k);
    const std::uint8_t* columns[Columns];
    for (int c = 0; c < Columns; ++c) columns[c] = job.columns[column + c];
    // The last panel may have fewer rows of the result.
    const bool whole = job.rows - row >= panel_rows;
    const auto size = static_cast<std::size_t>(std::min<std::int64_t>(panel_rows, job.rows - row)) * sizeof(float);
    alignas(64) float part[panel_rows] = {};
    Tile<F, Columns> total;
    fill_tile<Columns>(total, zero());
    if (block > 0) {
        repeat<Columns>([&](auto c) {
            const float* const out = job.out[column + c] + row;
            if (!whole) std::memcpy(part, out, size);
            repeat<tile_vectors>([&](auto v) { total[v][c] = load((whole ? out : part) + v * lanes); });
        });
    }
    for (std::int64_t b = 0; b < blocks; ++b) multiply_block<Weights>(panel, b, block + b, parts, columns, total);
    repeat<Columns>([&](auto c) {
        float* const out = job.out[column + c] + row;
        repeat<tile_vectors>([&](auto v) { store((whole ? out : part) + v * lanes, total[v][c]); });
        if (!whole) std::memcpy(out, part, size);
    });
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

// The first panel, which no other one has read ahead of.
template <class Weights>
void read_first_panel(const Job& job) {
    const auto blocks = static_cast<int>(std::min<std::int64_t>(panel_blocks, job.k / super_block));
    for (std::int64_t row = 0; row < std::min<std::int64_t>(panel_rows, job.rows); ++row) {
        read_ahead_of_panel(job.weights + row * job.row_step, blocks * super_block_bytes<Weights>());
    }
}

template <class Weights>
void gemm(const Job& job) {
    Panel& panel = *reinterpret_cast<Panel*>(job.scratch);
    read_first_panel<Weights>(job);
    const std::int64_t all_blocks = blocks_of(job.k);
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
