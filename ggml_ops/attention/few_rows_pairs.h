// Small blocks of rows in pairs of 16-bit integers: blocks of 8 or 4 bits become those faster than floats, and two
// products take the time of one. Neither keys nor values are transposed.
//
// No sum overflows:
//   q . k     |k| <= 2^15, and the |q| of a lane sum up to less than 2^16
//   p . v     as in large blocks (units.h)
#pragma once

#include <algorithm>
#include <cstdint>

#include "../simd/repeat.h"
#include "../simd/vector.h"
#include "attention.h"
#include "cache_rows.h"
#include "few_rows.h"
#include "masks.h"
#include "row_words.h"
#include "short_tiles.h"
#include "softmax.h"
#include "state.h"
#include "units.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr std::int64_t most_in_group = 32;
inline constexpr float key_limit = 32767.F;
// Of every second element of a lane; with the roundings of 64 elements still less than 2^15.
inline constexpr float query_limit = 32500.F;

// The scratch memory of a small block in pairs, in floats.
struct SmallPairsBlock {
    std::int64_t key_units;
    float* queries;       // rows x key_units
    float* query_scales;  // rows
    float* keys;          // key_positions x key_units
    float* scores;        // rows x short_tile
    float* weights;       // rows x short_units
    float* values;        // of a group of elements: short_units x word_chunk, for each word_chunk of them
    float* bias;          // short_tile
    float* old_factors;   // rows
    float* new_factors;   // rows
    TileFactors key_factors, value_factors;
    float* end;

    SmallPairsBlock(float* scratch, std::int64_t rows, std::int64_t key_size, std::int64_t value_size)
        : key_units(round_up(key_size / 2, floats_per_line)),
          queries(scratch),
          query_scales(queries + round_up(rows, few) * key_units),
          keys(query_scales + round_up(rows, floats_per_line)),
          scores(keys + key_positions * key_units),
          weights(scores + round_up(rows, row_unit) * short_tile),
          values(weights + round_up(rows, row_unit) * short_units),
          bias(values + short_units * most_in_group),
          old_factors(bias + short_tile),
          new_factors(old_factors + round_up(rows, floats_per_line)),
          key_factors(new_factors + round_up(rows, floats_per_line), key_size),
          value_factors(key_factors.end, value_size),
          end(value_factors.end) {}
};

// A query as words; returns the factor of its integers, which is not finite if the query is not.
inline float make_query(const float* q, std::int64_t size, float* units) {
    F even = zero(), odd = zero(), finite = zero();
    for (std::int64_t i = 0; i < size; i += word_chunk) {
        const F a = abs(load(q + i)), b = abs(load(q + i + lanes));
        even = even + a;
        odd = odd + b;
        finite = finite + ((a - a) + (b - b));
    }
    const float most = largest(max(even, odd)) + sum(finite);
    const F inverse = set(most > 0 ? query_limit / most : 0.F);
    for (std::int64_t i = 0; i < size; i += word_chunk) {
        store(units + i / 2, pack(load(q + i) * inverse, load(q + i + lanes) * inverse));
    }
    return most / query_limit;
}

// Scores of some rows at key_positions positions from j on.
template <int Rows>
void score_pairs(const SmallPairsBlock& block, std::int64_t units, std::int64_t j, std::int64_t row) {
    Pairs::Sum sum[key_positions][Rows];
    repeat<key_positions>([&](auto p) { repeat<Rows>([&](auto r) { sum[p][r] = Pairs::none(); }); });
    const float* const queries = block.queries + row * block.key_units;
    for (std::int64_t u = 0; u < units; u += lanes) {
        F query[Rows];
        repeat<Rows>([&](auto r) { query[r] = load(queries + r * block.key_units + u); });
        repeat<key_positions>([&](auto p) {
            const F key = load(block.keys + p * block.key_units + u);
            repeat<Rows>([&](auto r) { sum[p][r] = Pairs::dot_add(sum[p][r], key, query[r]); });
        });
    }
    repeat<key_positions>([&](auto p) {
        F all[few];
        repeat<few>([&](auto r) { all[r] = r < Rows ? Pairs::floats(sum[p][r < Rows ? r : 0]) : zero(); });
        float total[few];
        sums(all, total);
        const float scale = block.key_factors.scales[j + p];
        for (int r = 0; r < Rows; ++r) {
            block.scores[(row + r) * short_tile + j + p] = total[r] * scale * block.query_scales[row + r];
        }
    });
}

template <class Format>
void score_tile(const Job& job, std::int64_t first, std::int64_t count, const SmallPairsBlock& block,
                const Ahead& next) {
    const WordRows<Format> keys(job.k, first, count, key_limit, block.key_factors);
    const std::int64_t rows = job.queries.rows(), units = job.k.size / 2;
    for (std::int64_t j = 0; j < count; j += key_positions) {
        ask_for(part_of(next, j / key_positions, short_tile / key_positions));
        for (int p = 0; p < key_positions; ++p) keys.unpack(j + p, block.keys + p * block.key_units);
        for (std::int64_t row = 0; row < rows; row += few) {
            for_rows(rows - row, [&](auto together) { score_pairs<together>(block, units, j, row); });
        }
    }
}

// Adds word_chunk values of each position, from element d on, times the weights of some rows.
template <int Rows>
void add_pairs(const SmallPairsBlock& block, const float* values, const StateArrays& state, std::int64_t row,
               std::int64_t d) {
    Pairs::Sum sum[Rows][2];
    multiply<Pairs, Rows, 2, short_units, 1>(block.weights + row * short_units, values, short_units, sum);
    repeat<Rows>([&](auto r) {
        F added[2] = {Pairs::floats(sum[r][0]), Pairs::floats(sum[r][1])};
        in_order(added);
        float* const to = state.values + (row + r) * state.value_step + d;
        const F old_factor = set(block.old_factors[row + r]), new_factor = set(block.new_factors[row + r]);
        repeat<2>([&](auto v) { store(to + v * lanes, fma(added[v], new_factor, load(to + v * lanes) * old_factor)); });
    });
}

template <class Format>
void add_tile(const Job& job, const WordRows<Format>& values, const SmallPairsBlock& block, const StateArrays& state,
              const Ahead& next) {
    constexpr std::int64_t group = Words<Format>::group;
    static_assert(group <= most_in_group);
    for (std::int64_t first = 0; first < job.v.size; first += group) {
        values.unpack_pairs(first / group, block.values, part_of(next, first / group, job.v.size / group));
        for (std::int64_t i = 0; i < group; i += word_chunk) {
            const float* const chunk = block.values + i * short_units;
            for (std::int64_t row = 0; row < state.rows;) {
                const std::int64_t left = (state.rows - row) / row_unit;
                if (left >= 3) add_pairs<3 * row_unit>(block, chunk, state, row, first + i);
                else if (left == 2) add_pairs<2 * row_unit>(block, chunk, state, row, first + i);
                else add_pairs<row_unit>(block, chunk, state, row, first + i);
                row += std::min<std::int64_t>(left, 3) * row_unit;
            }
        }
    }
}

// Scores to weights; sets the factors of the rows.
inline void weigh_pairs(const Queries& queries, const ShortTile& tile, const SmallPairsBlock& block,
                        const StateArrays& state) {
    for (std::int64_t row = 0; row < queries.rows(); ++row) {
        float* const scores = block.scores + row * short_tile;
        float* const weights = block.weights + row * short_units;
        Factors factors{1.F, 0.F};
        if (tile.seen[row] == Seen::none) {
            std::fill(weights, weights + short_units, 0.F);
        } else {
            const Bias bias = bias_of(queries, row, tile.seen[row], tile.first, tile.count, short_tile, block.bias);
            const float most = add_bias(scores, short_tile, bias.values, bias.slope, queries.softcap);
            factors = weigh<Pairs>(scores, short_tile, most, block.value_factors.scales, state.largest[row],
                                   state.sum[row], weights);
        }
        block.old_factors[row] = factors.old_factor;
        block.new_factors[row] = factors.new_factor;
    }
}

inline void attend_few_pairs(const Job& job) {
    const Queries& queries = job.queries;
    const std::int64_t rows = queries.rows();
    const SmallPairsBlock block(reinterpret_cast<float*>(job.scratch), rows, job.k.size, job.v.size);
    const StateArrays state(job.state, rows, job.v.size);
    if (!job.resume) state.clear();
    for (std::int64_t row = 0; row < rows; ++row) {
        block.query_scales[row] =
            make_query(queries.row(row), job.k.size, block.queries + row * block.key_units) * queries.scale;
    }
    // Rows that fill a group stay zeros.
    std::fill(block.weights + rows * short_units, block.weights + state.rows * short_units, 0.F);
    std::fill(block.old_factors + rows, block.old_factors + state.rows, 0.F);
    std::fill(block.new_factors + rows, block.new_factors + state.rows, 0.F);
    for_short_tiles(job, [&](const ShortTile& tile) {
        for_type(job.k.type, [&](auto format) {
            if constexpr (Words<decltype(format)>::exist) {
                score_tile<decltype(format)>(job, tile.first, tile.count, block, tile.next_k);
            }
        });
        for_type(job.v.type, [&](auto format) {
            if constexpr (Words<decltype(format)>::exist) {
                const WordRows<decltype(format)> values(job.v, tile.first, tile.count, value_limit,
                                                        block.value_factors);
                weigh_pairs(queries, tile, block, state);
                add_tile(job, values, block, state, tile.next_v);
            }
        });
    });
}

}  // namespace
}  // namespace attention::SIMD_TARGET
