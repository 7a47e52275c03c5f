// A tile has one row of weights in each lane: column i of all of them is one vector. The last tile is filled up by
// repeating the last row.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../simd/vector.h"
#include "moment_rounding.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

using namespace simd;

struct Tile {
    F* w;           // weights
    F* value;       // levels of the quants
    F* decoded;     // what the weights become
    F* kept_value;  // a copy of the quants and of what they decode to
    F* kept_decoded;
    F* scale;  // of groups, whole numbers
    F* min;
    F* d;  // of blocks
    F* dmin;
    F* slope;  // of a panel: H (decoded - w), half the gradient of the error
    F* below;  // the part of it that comes from the columns before the panel
    F* change;
    F* reach;  // of H with a direction
    std::int64_t columns;
};
using Tiles = Span<const Tile>;

// A matrix in parts of `width` columns, so that a kernel reads it from one end to the other.
inline constexpr int width = 6;   // of columns that tiles read two at a time
inline constexpr int strip = 16;  // columns of a panel that hear of each other's moves immediately
inline constexpr int some = 96;   // columns that are packed at a time: they stay in the second-level cache

// What the tiles of a thread share.
struct Shared {
    float* near;  // a panel's own part of the matrix, packed
    float* far;   // `some` columns of a panel's rows
};

inline std::int64_t tile_floats(std::int64_t columns, const Format& format) {
    const std::int64_t groups = columns / format.group;
    const std::int64_t blocks = columns / format.block;
    return (5 * columns + 2 * groups + 2 * blocks + 3 * panel + (panel + width)) * lanes;
}
inline std::int64_t scratch_floats(std::int64_t columns, const Format& format, std::int64_t tiles) {
    return panel * panel + panel * some + tiles * tile_floats(columns, format);
}

inline Tile tile_in(float* scratch, std::int64_t columns, const Format& format) {
    static_assert(sizeof(F) == lanes * sizeof(float));
    F* next = reinterpret_cast<F*>(scratch);
    const auto take = [&](std::int64_t count) {
        F* from = next;
        next += count;
        return from;
    };
    const std::int64_t groups = columns / format.group;
    const std::int64_t blocks = columns / format.block;
    Tile tile{};
    for (F** columnwise : {&tile.w, &tile.value, &tile.decoded, &tile.kept_value, &tile.kept_decoded})
        *columnwise = take(columns);
    tile.scale = take(groups);
    tile.min = take(groups);
    tile.d = take(blocks);
    tile.dmin = take(blocks);
    for (F** of_panel : {&tile.below, &tile.change, &tile.reach}) *of_panel = take(panel);
    tile.slope = take(panel + width);  // whole parts of `width` are written
    tile.columns = columns;
    return tile;
}

inline void gather(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t count, F* to) {
    for (std::int64_t i = 0; i < count; ++i) {
        float one[lanes];
        for (std::int64_t lane = 0; lane < lanes; ++lane) one[lane] = from[std::min(lane, rows - 1) * stride + i];
        to[i] = load(one);
    }
}

inline void scatter(const F* from, std::int64_t stride, std::int64_t rows, std::int64_t count, float* to) {
    for (std::int64_t i = 0; i < count; ++i) {
        float one[lanes];
        store(one, from[i]);
        for (std::int64_t lane = 0; lane < rows; ++lane) to[lane * stride + i] = one[lane];
    }
}

// The scale and the min of a group, as the decoder of ggml multiplies them.
inline F group_scale(const Tile& tile, const Format& format, std::int64_t group) {
    return tile.d[group * format.group / format.block] * tile.scale[group];
}
inline F group_min(const Tile& tile, const Format& format, std::int64_t group) {
    return format.highest_min > 0 ? tile.dmin[group * format.group / format.block] * tile.min[group] : zero();
}

inline void decode(const Tile& tile, const Format& format) {
    for (std::int64_t group = 0; group < tile.columns / format.group; ++group) {
        const F scale = group_scale(tile, format, group);
        const F min = group_min(tile, format, group);
        for (std::int64_t i = group * format.group; i < (group + 1) * format.group; ++i)
            tile.decoded[i] = tile.value[i] * scale - min;
    }
}

// The level nearest to z.
inline F nearest_level(const Format& format, F z) {
    if (format.levels == nullptr) return round_even(max(set(format.lowest), min(set(format.highest), z)));
    F level = set(format.levels[0]);
    for (int i = 1; i < most_levels; ++i) {
        const float middle = (format.levels[i - 1] + format.levels[i]) / 2;
        level = select(z < set(middle), level, set(format.levels[i]));
    }
    return level;
}

inline F inverse_or_zero(F a) { return select(a == zero(), zero(), set(1.F) / a); }

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
