// Error feedback: with H = M^T D M the error is the sum over i of D_i (e_i + sum over j < i of M_ij e_j)^2, so that
// column i is rounded from w_i - sum over j < i of M_ij e_j. The factor's matrix has M below its diagonal, mirrored.
#pragma once

#include "spread.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

// Rounds columns first..first+count-1 anew with the present scales; leaves their errors in tile.change. What they owe
// each other and others is in tile.slope.
inline void feed_back_within(const Tile& tile, const Format& format, const float* factor, std::int64_t first,
                             std::int64_t count) {
    for (std::int64_t i = first; i < first + count; ++i) {
        const F scale = group_scale(tile, format, i / format.group);
        const F min = group_min(tile, format, i / format.group);
        const F wanted = tile.w[i] - tile.slope[i];
        const F value = nearest_level(format, (wanted + min) * inverse_or_zero(scale));
        tile.value[i] = select(scale == zero(), tile.value[i], value);
        tile.decoded[i] = tile.value[i] * scale - min;
        const F error = tile.decoded[i] - tile.w[i];
        tile.change[i - first] = error;
        spread_one(error, factor + i * tile.columns + i + 1, first + count - i - 1, tile.slope + i + 1);
    }
}

// Rounds all columns anew. The slopes are lost.
inline void feed_back(Tiles tiles, const Format& format, const float* factor) {
    const std::int64_t n = tiles.begin()->columns;
    for (const Tile& tile : tiles) std::fill_n(tile.slope, n, zero());
    for (std::int64_t first = 0; first < n; first += panel) {
        const std::int64_t count = std::min<std::int64_t>(panel, n - first);
        for (const Tile& tile : tiles) feed_back_within(tile, format, factor, first, count);
        spread_all(tiles, factor, n, first, count, first + count, n, &Tile::slope);
    }
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
