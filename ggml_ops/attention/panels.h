// Queries, keys and values as the matmuls of large blocks read them: in units, lanes beside each other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../simd/vector.h"
#include "attention.h"
#include "cache_rows.h"
#include "state.h"
#include "units.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

template <class Unit>
inline constexpr std::int64_t tile_positions = position_granularity / (Unit::pairs ? 1 : 2);
template <class Unit>
inline constexpr std::int64_t tile_units = tile_positions<Unit> / Unit::elements;

// The scratch memory of a large block, in floats.
template <class Unit>
struct Panels {
    std::int64_t key_units, key_unit_step, value_step;
    float* queries;       // for each group of rows: units x rows of the group
    float* query_scales;  // rows
    float* keys;          // for each tile_width positions: units x tile_width
    float* key_scales;    // positions
    float* values;        // for each tile_width elements: units x tile_width
    float* value_scales;  // positions
    float* rows;          // while panels are filled: two rows of floats, then `lanes` rows of units
    float* scores;        // tile_rows x positions
    float* weights;       // tile_rows x units
    float* bias;          // positions
    float* end;

    Panels(float* scratch, std::int64_t query_rows, std::int64_t key_size, std::int64_t value_size)
        : key_units(units_of<Unit>(key_size)),
          key_unit_step(round_up(key_units, floats_per_line)),
          value_step(round_up(std::max(key_size, value_size), 2 * floats_per_line)) {
        constexpr std::int64_t positions = tile_positions<Unit>, units = tile_units<Unit>;
        const std::int64_t padded_rows = round_up(query_rows, floats_per_line);
        float* at = scratch;
        const auto take = [&at](std::int64_t count) {
            float* const taken = at;
            at += round_up(count, floats_per_line);
            return taken;
        };
        queries = take(padded_rows * key_units);
        query_scales = take(padded_rows);
        keys = take(positions * key_unit_step);
        key_scales = take(positions);
        values = take(units * value_step);
        value_scales = take(positions);
        rows = take(2 * value_step + lanes * key_unit_step);
        scores = take(tile_rows * positions);
        weights = take(tile_rows * units);
        bias = take(positions);
        end = at;
    }
};

inline float norm_of(const float* x, std::int64_t size) {
    F squares = zero();
    for (std::int64_t i = 0; i < size; i += lanes) squares = fma(load(x + i), load(x + i), squares);
    return std::sqrt(sum(squares));
}

// A row of floats, zeros up to a multiple of 2 * lanes, as units. Returns the factor of its integers.
template <class Unit>
inline float make_units(const float* x, std::int64_t size, float* units) {
    if constexpr (!Unit::pairs) {
        for (std::int64_t i = 0; i < size; i += lanes) store(units + i, load(x + i));
        return 1.F;
    } else {
        const float norm = norm_of(x, size);
        const F inverse = set(norm > 0 ? norm_limit / norm : 0.F);
        for (std::int64_t i = 0; i < size; i += 2 * lanes) {
            store(units + i / 2, pair_up(load(x + i) * inverse, load(x + i + lanes) * inverse));
        }
        return norm / norm_limit;  // not finite if a value is not: so is the score
    }
}

// The number of rows of the group of rows that starts at `row`.
inline std::int64_t group_rows(std::int64_t rows, std::int64_t row) {
    return std::min<std::int64_t>(tile_rows, round_up(rows - row, row_unit));
}

template <class Unit>
void fill_queries(const Queries& queries, std::int64_t size, const Panels<Unit>& panels) {
    const std::int64_t rows = queries.rows();
    float* const x = panels.rows;
    float* const units = panels.rows + 2 * panels.value_step;
    for (std::int64_t first = 0; first < rows; first += tile_rows) {
        const std::int64_t count = group_rows(rows, first);
        float* const group = panels.queries + first * panels.key_units;
        for (std::int64_t r = 0; r < count; ++r) {
            const std::int64_t row = std::min(first + r, rows - 1);  // missing rows repeat the last one
            const float* const q = queries.row(row);
            unpack_row<Plain<float>>(reinterpret_cast<const std::uint8_t*>(q), size, x);
            panels.query_scales[first + r] = make_units<Unit>(x, size, units) * queries.scale;
            for (std::int64_t u = 0; u < panels.key_units; ++u) group[u * count + r] = units[u];
        }
    }
}

// Positions first <= j < first + count, and what fills the last tile_width of them: zeros.
template <class Unit, class Format>
void fill_keys(const Cache& k, std::int64_t first, std::int64_t count, const Panels<Unit>& panels) {
    float* const x = panels.rows;
    float* const units = panels.rows + 2 * panels.value_step;
    const std::int64_t step = panels.key_unit_step;
    for (std::int64_t j = 0; j < round_up(count, tile_width); j += lanes) {
        for (std::int64_t l = 0; l < lanes; ++l) {
            if (j + l < count) {
                unpack_row<Format>(k.rows + (first + j + l) * k.step, k.size, x);
                panels.key_scales[j + l] = make_units<Unit>(x, k.size, units + l * step);
            } else {
                std::fill(units + l * step, units + (l + 1) * step, 0.F);
                panels.key_scales[j + l] = 0;
            }
        }
        float* const to = panels.keys + j / tile_width * tile_width * panels.key_units + j % tile_width;
        for (std::int64_t u = 0; u < panels.key_units; u += lanes) {
            F square[lanes];
            for (int l = 0; l < lanes; ++l) square[l] = load(units + l * step + u);
            transpose(square);
            const std::int64_t some = std::min<std::int64_t>(lanes, panels.key_units - u);
            for (std::int64_t i = 0; i < some; ++i) store(to + (u + i) * tile_width, square[i]);
        }
    }
}

// Elements of a value row that are multiplied together, from element d on.
inline std::int64_t value_width(std::int64_t size, std::int64_t d) { return size - d > lanes ? tile_width : lanes; }

inline float magnitude_of(const float* x, std::int64_t size) {
    F most = zero(), finite = zero();
    for (std::int64_t i = 0; i < size; i += lanes) {
        const F a = abs(load(x + i));
        most = max(most, a);
        finite = finite + (a - a);  // NaN if a value is not finite
    }
    return largest(most) + sum(finite);
}

template <class Unit, class Format>
void fill_values(const Cache& v, std::int64_t first, std::int64_t count, const Panels<Unit>& panels) {
    constexpr int elements = Unit::elements;
    constexpr std::int64_t chunk = elements * lanes;
    for (std::int64_t unit = 0; unit < round_up(count, tile_width) / elements; ++unit) {
        F inverse[elements];
        for (int e = 0; e < elements; ++e) {
            const std::int64_t j = unit / lanes * chunk + unit % lanes + e * lanes;
            const std::int64_t position = Unit::pairs ? j : unit;
            float* const x = panels.rows + e * panels.value_step;
            float magnitude = 0;
            if (position < count) {
                unpack_row<Format>(v.rows + (first + position) * v.step, v.size, x);
                magnitude = Unit::pairs ? magnitude_of(x, v.size) : 0.F;
            } else {
                std::fill(x, x + round_up(v.size, 2 * lanes), 0.F);
            }
            inverse[e] = set(magnitude > 0 ? value_limit / magnitude : 0.F);
            panels.value_scales[position] = magnitude / value_limit;
        }
        for (std::int64_t d = 0; d < v.size;) {
            const std::int64_t width = value_width(v.size, d);
            float* const to = panels.values + d * tile_units<Unit> + unit * width;
            for (std::int64_t i = 0; i < width; i += lanes) {
                const float* const x = panels.rows + d + i;
                if constexpr (Unit::pairs) {
                    const float* const y = x + panels.value_step;
                    store(to + i, pair_up(load(x) * inverse[0], load(y) * inverse[1]));
                } else {
                    store(to + i, load(x));
                }
            }
            d += width;
        }
    }
}

}  // namespace
}  // namespace attention::SIMD_TARGET
