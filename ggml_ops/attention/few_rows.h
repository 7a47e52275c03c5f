// Small blocks of rows, as of decode: keys and values are read once, straight from the cache, and multiplied in floats.
// Meanwhile the memory of the next positions is asked for.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../simd/repeat.h"
#include "../simd/vector.h"
#include "attention.h"
#include "cache_rows.h"
#include "masks.h"
#include "short_tiles.h"
#include "softmax.h"
#include "state.h"
#include "units.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr int few = 4;  // rows that are computed together
inline constexpr int key_positions = lanes == 8 ? 2 : 4;
inline constexpr int key_vectors = lanes == 1 ? 1 : 2;
inline constexpr int value_vectors = lanes == 8 ? 2 : 4;

// The scratch memory of a small block, in floats.
struct SmallBlock {
    std::int64_t query_step;
    float* queries;  // rows x query_step, scaled
    float* scores;   // rows x short_tile
    float* factors;  // rows
    float* bias;     // short_tile
    float* end;

    SmallBlock(float* scratch, std::int64_t rows, std::int64_t key_size)
        : query_step(round_up(key_size, 2 * floats_per_line)),
          queries(scratch),
          scores(queries + round_up(rows, few) * query_step),
          factors(scores + round_up(rows, few) * short_tile),
          bias(factors + round_up(rows, floats_per_line)),
          end(bias + short_tile) {}
};

// Scores of some rows at `Positions` positions from `keys` on. Scores are short_tile apart from row to row.
template <class Format, int Rows, int Positions>
[[gnu::always_inline]] inline void score_positions(const Cache& k, const std::uint8_t* keys, const float* queries,
                                                   std::int64_t query_step, float* scores) {
    F sum[Positions][few];
    repeat<Positions>([&](auto p) { repeat<few>([&](auto r) { sum[p][r] = zero(); }); });
    constexpr std::int64_t step = key_vectors * lanes;
    for (std::int64_t d = 0; d < k.size; d += step) {
        repeat<Positions>([&](auto p) {
            F key[key_vectors];
            Format::template load_vectors<key_vectors>(keys + p * k.step, d, key);
            repeat<key_vectors>([&](auto v) {
                repeat<Rows>([&](auto r) {
                    sum[p][r] = fma(key[v], load(queries + r * query_step + d + v * lanes), sum[p][r]);
                });
            });
        });
    }
    repeat<Positions>([&](auto p) {
        float total[few];
        sums(sum[p], total);
        for (int r = 0; r < Rows; ++r) scores[r * short_tile + p] = total[r];
    });
}

template <class Format, int Rows>
void score_rows(const Job& job, std::int64_t first, std::int64_t count, const float* queries, std::int64_t query_step,
                float* scores, const Ahead& next) {
    std::int64_t j = 0;
    for (; j + key_positions <= count; j += key_positions) {
        ask_for(part_of(next, j / key_positions, short_tile / key_positions));
        score_positions<Format, Rows, key_positions>(job.k, job.k.rows + (first + j) * job.k.step, queries, query_step,
                                                     scores + j);
    }
    for (; j < count; ++j) {
        score_positions<Format, Rows, 1>(job.k, job.k.rows + (first + j) * job.k.step, queries, query_step, scores + j);
    }
}

// Adds `Vectors` vectors of the values, from element d on, times the weights of some rows.
template <class Format, int Rows, int Vectors>
[[gnu::always_inline]] inline void add_elements(const Cache& v, std::int64_t first, std::int64_t count,
                                                const float* weights, const float* factors, float* values,
                                                std::int64_t value_step, std::int64_t d, const Ahead& next) {
    F sum[Rows][Vectors];
    repeat<Rows>([&](auto r) {
        repeat<Vectors>([&](auto i) { sum[r][i] = load(values + r * value_step + d + i * lanes) * set(factors[r]); });
    });
    for (std::int64_t j = 0; j < count; ++j) {
        ask_for(part_of(next, j, short_tile));
        F value[Vectors];
        Format::template load_vectors<Vectors>(v.rows + (first + j) * v.step, d, value);
        repeat<Rows>([&](auto r) {
            const F weight = set(weights[r * short_tile + j]);
            repeat<Vectors>([&](auto i) { sum[r][i] = fma(weight, value[i], sum[r][i]); });
        });
    }
    repeat<Rows>(
        [&](auto r) { repeat<Vectors>([&](auto i) { store(values + r * value_step + d + i * lanes, sum[r][i]); }); });
}

template <class Format, int Rows>
void add_rows(const Job& job, std::int64_t first, std::int64_t count, const float* weights, const float* factors,
              float* values, std::int64_t value_step, const Ahead& next) {
    constexpr std::int64_t step = value_vectors * lanes;
    std::int64_t d = 0;
    for (; d + step <= job.v.size; d += step) {
        add_elements<Format, Rows, value_vectors>(job.v, first, count, weights, factors, values, value_step, d,
                                                  part_of(next, d / step, job.v.size / step));
    }
    for (; d < job.v.size; d += lanes) {
        add_elements<Format, Rows, 1>(job.v, first, count, weights, factors, values, value_step, d, {});
    }
}

// Calls f with the number of rows as a constant.
template <class Function>
inline void for_rows(std::int64_t rows, const Function& f) {
    switch (rows) {
        case 1: return f(std::integral_constant<int, 1>{});
        case 2: return f(std::integral_constant<int, 2>{});
        case 3: return f(std::integral_constant<int, 3>{});
        default: return f(std::integral_constant<int, few>{});
    }
}

// Scores to weights; sets the factors of the old values.
inline void weigh_rows(const Queries& queries, const ShortTile& tile, const SmallBlock& block,
                       const StateArrays& state) {
    const std::int64_t width = round_up(tile.count, lanes);
    for (std::int64_t row = 0; row < queries.rows(); ++row) {
        float* const scores = block.scores + row * short_tile;
        if (tile.seen[row] == Seen::none) {
            std::fill(scores, scores + width, 0.F);
            block.factors[row] = 1;
            continue;
        }
        const Bias bias = bias_of(queries, row, tile.seen[row], tile.first, tile.count, width, block.bias);
        const float most = add_bias(scores, width, bias.values, bias.slope, queries.softcap);
        block.factors[row] =
            weigh<Floats>(scores, width, most, nullptr, state.largest[row], state.sum[row], scores).old_factor;
    }
}

inline void attend_few(const Job& job) {
    const Queries& queries = job.queries;
    const std::int64_t rows = queries.rows();
    const SmallBlock block(reinterpret_cast<float*>(job.scratch), rows, job.k.size);
    const StateArrays state(job.state, rows, job.v.size);
    if (!job.resume) state.clear();
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* const q = queries.row(row);
        for (std::int64_t d = 0; d < job.k.size; ++d) block.queries[row * block.query_step + d] = q[d] * queries.scale;
    }
    for_short_tiles(job, [&](const ShortTile& tile) {
        for (std::int64_t row = 0; row < rows; row += few) {
            for_rows(rows - row, [&](auto together) {
                for_type(job.k.type, [&](auto format) {
                    score_rows<decltype(format), together>(
                        job, tile.first, tile.count, block.queries + row * block.query_step, block.query_step,
                        block.scores + row * short_tile, row == 0 ? tile.next_k : Ahead{});
                });
            });
        }
        weigh_rows(queries, tile, block, state);
        for (std::int64_t row = 0; row < rows; row += few) {
            for_rows(rows - row, [&](auto together) {
                for_type(job.v.type, [&](auto format) {
                    add_rows<decltype(format), together>(job, tile.first, tile.count, block.scores + row * short_tile,
                                                         block.factors + row, state.values + row * state.value_step,
                                                         state.value_step, row == 0 ? tile.next_v : Ahead{});
                });
            });
        }
    });
}

}  // namespace
}  // namespace attention::SIMD_TARGET
