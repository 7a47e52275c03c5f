// Error feedback: with H = M^T D M the error is the sum over i of D_i (e_i + sum over j < i of M_ij e_j)^2, so that
// column i is rounded from w_i - sum over j < i of M_ij e_j. The factor's matrix has M below its diagonal, mirrored.
#pragma once

#include "spread.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

// Rounds all columns anew with the present scales; `owed` is scratch of one vector for each column.
inline void feed_back(const Tile& tile, const Format& format, const float* factor, F* owed) {
    const std::int64_t n = tile.columns;
    for (std::int64_t i = 0; i < n; ++i) owed[i] = zero();
    for (std::int64_t first = 0; first < n; first += panel) {
        const std::int64_t count = std::min<std::int64_t>(panel, n - first);
        for (std::int64_t i = first; i < first + count; ++i) {
            const F scale = group_scale(tile, format, i / format.group);
            const F min = group_min(tile, format, i / format.group);
            const F wanted = tile.w[i] - owed[i];
            const F value = nearest_level(format, (wanted + min) * inverse_or_zero(scale));
            tile.value[i] = select(scale == zero(), tile.value[i], value);
            tile.decoded[i] = tile.value[i] * scale - min;
            const F error = tile.decoded[i] - tile.w[i];
            tile.change[i - first] = error;
            spread_one(error, factor + i * n + i + 1, first + count - i - 1, owed + i + 1);
        }
        spread(tile.change, factor, n, first, count, first + count, n, owed);
    }
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
