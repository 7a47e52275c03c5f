// Error feedback: with H = M^T D M the error is the sum over i of D_i (e_i + sum over j < i of M_ij e_j)^2, so that
// column i is rounded from w_i - sum over j < i of M_ij e_j. The factor's matrix has M below its diagonal, mirrored.
#pragma once

#include "matmul.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

// Rounds the columns of a panel anew with the present scales. What the columns before it owe them is in tile.slope.
inline void feed_back_within(const Tile& tile, const Format& format, const Panel& panel) {
    for (std::int64_t from = 0; from < panel.count; from += strip) {
        for (std::int64_t j = from; j < from + strip; ++j) {
            const std::int64_t i = panel.first + j;
            const F scale = group_scale(tile, format, i / format.group);
            const F min = group_min(tile, format, i / format.group);
            const F wanted = tile.w[i] - tile.slope[j];
            const F value = nearest_level(format, (wanted + min) * inverse_or_zero(scale));
            tile.value[i] = select(scale == zero(), tile.value[i], value);
            tile.decoded[i] = tile.value[i] * scale - min;
            tile.change[j - from] = tile.decoded[i] - tile.w[i];
            spread(tile.change + j - from, 1, in_order(j), panel, from, from + strip, tile.slope);
        }
        spread(tile.change, strip, in_order(from), panel, from + strip, panel.count, tile.slope);
    }
}

// Rounds all columns anew.
inline void feed_back(Tiles tiles, const Shared& shared, const Format& format, const float* factor) {
    each_panel(tiles, shared, factor, [&](const Panel& own) {
        for (const Tile& tile : tiles) feed_back_within(tile, format, own);
    });
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
