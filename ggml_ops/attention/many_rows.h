// Large blocks of rows: each tile of the cache is unpacked into panels once, and multiplied with groups of rows. Scores
// and weights of a group stay in the first-level cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../simd/repeat.h"
#include "../simd/vector.h"
#include "attention.h"
#include "cache_rows.h"
#include "masks.h"
#include "panels.h"
#include "softmax.h"
#include "state.h"
#include "units.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

// A tile of the cache and what the rows see of it.
struct TileView {
    std::int64_t first, count;
    const Seen* seen;
};

template <class Unit, int Rows>
void score_group(const Panels<Unit>& panels, std::int64_t row, std::int64_t width) {
    const float* const queries = panels.queries + row * panels.key_units;
    for (std::int64_t j = 0; j < width; j += tile_width) {
        typename Unit::Sum sum[Rows][tile_vectors];
        multiply<Unit, Rows, tile_vectors, 1, Rows>(queries, panels.keys + j * panels.key_units, panels.key_units, sum);
        repeat<tile_vectors>([&](auto v) {
            const F key_scale = load(panels.key_scales + j + v * lanes);
            repeat<Rows>([&](auto r) {
                const F scale = key_scale * set(panels.query_scales[row + r]);
                store(panels.scores + r * tile_positions<Unit> + j + v * lanes, Unit::floats(sum[r][v]) * scale);
            });
        });
    }
}

// Scores to weights, row by row.
template <class Unit, int Rows>
void weigh_group(const Queries& queries, const TileView& tile, const Panels<Unit>& panels, const StateArrays& state,
                 std::int64_t row, std::int64_t width, Factors (&factors)[Rows]) {
    const std::uint16_t* bias_of = nullptr;
    bool has_bias = false;
    for (int r = 0; r < Rows; ++r) {
        const std::int64_t at = std::min(row + r, queries.rows() - 1);
        float* const scores = panels.scores + r * tile_positions<Unit>;
        float* const weights = panels.weights + r * tile_units<Unit>;
        if (tile.seen[at] == Seen::none) {
            std::fill(weights, weights + width / Unit::elements, 0.F);
            factors[r] = {1.F, 0.F};
            continue;
        }
        const float* bias = nullptr;
        float slope = 1;
        if (tile.seen[at] == Seen::some || tile.count < width) {
            const std::uint16_t* const mask = tile.seen[at] == Seen::some ? mask_of(queries, at) + tile.first : nullptr;
            if (!has_bias || mask != bias_of) fill_bias(mask, tile.count, width, panels.bias);
            bias_of = mask;
            has_bias = true;
            bias = panels.bias;
            if (queries.slopes != nullptr) slope = queries.slopes[at % queries.heads];
        }
        const float most = add_bias(scores, width, bias, slope, queries.softcap);
        factors[r] =
            weigh<Unit>(scores, width, most, panels.value_scales, state.largest[row + r], state.sum[row + r], weights);
    }
}

template <class Unit, int Rows, int Vectors>
void add_values(const Panels<Unit>& panels, const StateArrays& state, std::int64_t row, std::int64_t d,
                std::int64_t units, const Factors (&factors)[Rows]) {
    typename Unit::Sum sum[Rows][Vectors];
    multiply<Unit, Rows, Vectors, tile_units<Unit>, 1>(panels.weights, panels.values + d * tile_units<Unit>, units,
                                                       sum);
    repeat<Rows>([&](auto r) {
        float* const to = state.values + (row + r) * state.value_step + d;
        const F old_factor = set(factors[r].old_factor), new_factor = set(factors[r].new_factor);
        repeat<Vectors>([&](auto v) {
            store(to + v * lanes, fma(Unit::floats(sum[r][v]), new_factor, load(to + v * lanes) * old_factor));
        });
    });
}

template <class Unit, int Rows>
void attend_group(const Job& job, const TileView& tile, const Panels<Unit>& panels, const StateArrays& state,
                  std::int64_t row) {
    const std::int64_t width = round_up(tile.count, tile_width);
    score_group<Unit, Rows>(panels, row, width);
    Factors factors[Rows];
    weigh_group<Unit, Rows>(job.queries, tile, panels, state, row, width, factors);
    const std::int64_t units = width / Unit::elements;
    for (std::int64_t d = 0; d < job.v.size;) {
        const std::int64_t elements = value_width(job.v.size, d);
        if (elements == tile_width) {
            add_values<Unit, Rows, tile_vectors>(panels, state, row, d, units, factors);
        } else {
            add_values<Unit, Rows, 1>(panels, state, row, d, units, factors);
        }
        d += elements;
    }
}

// Asks for the rows of the next tile, a part of them with each group of rows.
inline void prefetch_part(const Cache& cache, std::int64_t first, std::int64_t last) {
    const auto bytes = static_cast<std::int64_t>(row_bytes(cache.type, cache.size));
    for (std::int64_t j = first; j < last; ++j) prefetch_row(cache.rows + j * cache.step, bytes);
}

inline bool all_are(const Seen* seen, std::int64_t first, std::int64_t last, Seen what) {
    return std::all_of(seen + first, seen + last, [what](Seen one) { return one == what; });
}

template <class Unit>
void attend_many(const Job& job) {
    const std::int64_t rows = job.queries.rows();
    const Panels<Unit> panels(reinterpret_cast<float*>(job.scratch), rows, job.k.size, job.v.size);
    const StateArrays state(job.state, rows, job.v.size);
    if (!job.resume) state.clear();
    fill_queries<Unit>(job.queries, job.k.size, panels);
    Seen seen[max_rows];
    for (std::int64_t first = job.first; first < job.last; first += tile_positions<Unit>) {
        const std::int64_t count = std::min(tile_positions<Unit>, job.last - first);
        if (!find_seen(job.queries, first, count, seen)) continue;
        for_type(job.k.type, [&](auto format) { fill_keys<Unit, decltype(format)>(job.k, first, count, panels); });
        for_type(job.v.type, [&](auto format) { fill_values<Unit, decltype(format)>(job.v, first, count, panels); });
        const TileView tile{first, count, seen};
        for (std::int64_t row = 0; row < rows; row += tile_rows) {
            const std::int64_t next = first + tile_positions<Unit>;
            const std::int64_t more = std::clamp<std::int64_t>(job.last - next, 0, tile_positions<Unit>);
            const std::int64_t from = next + more * row / rows;
            const std::int64_t to = next + more * std::min(row + tile_rows, rows) / rows;
            prefetch_part(job.k, from, to);
            prefetch_part(job.v, from, to);
            if (all_are(seen, row, std::min(row + tile_rows, rows), Seen::none)) continue;
            switch (group_rows(rows, row) / row_unit) {
                case 1: attend_group<Unit, row_unit>(job, tile, panels, state, row); break;
                case 2: attend_group<Unit, 2 * row_unit>(job, tile, panels, state, row); break;
                default: attend_group<Unit, tile_rows>(job, tile, panels, state, row); break;
            }
        }
    }
}

}  // namespace
}  // namespace attention::SIMD_TARGET
