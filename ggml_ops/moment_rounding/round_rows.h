// Rounds a tile of rows from its start: feedback if it lowers the error, then sweeps of descent; what is not better
// than the start in the end is not taken.
#pragma once

#include "descent.h"
#include "feedback.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

inline void keep(const Tile& tile) {
    std::copy_n(tile.value, tile.columns, tile.kept_value);
    std::copy_n(tile.decoded, tile.columns, tile.kept_decoded);
}

inline void restore(const Tile& tile, M worse) {
    for (std::int64_t i = 0; i < tile.columns; ++i) {
        tile.value[i] = select(worse, tile.kept_value[i], tile.value[i]);
        tile.decoded[i] = select(worse, tile.kept_decoded[i], tile.decoded[i]);
    }
}

inline void sweep(const Tile& tile, const Format& format, const Effort& effort, const float* moments) {
    const std::int64_t n = tile.columns;
    for (std::int64_t first = 0; first < n; first += panel) {
        const std::int64_t count = std::min<std::int64_t>(panel, n - first);
        std::copy_n(tile.decoded + first, count, tile.kept_decoded);
        descend(tile, format, effort, {first, count, moments}, tile.change);
        if (count == n) return;  // no others
        for (std::int64_t i = 0; i < count; ++i) tile.change[i] = tile.decoded[first + i] - tile.kept_decoded[i];
        spread(tile.change, moments, n, first, count, 0, first, tile.slope);
        spread(tile.change, moments, n, first, count, first + count, n, tile.slope);
    }
}

inline void store_rows(const Tile& tile, const Format& format, const Rows& job) {
    const std::int64_t groups = job.columns / format.group;
    const std::int64_t blocks = job.columns / format.block;
    scatter(tile.value, job.columns, job.rows, job.columns, job.values);
    scatter(tile.d, blocks, job.rows, blocks, job.d);
    scatter(tile.scale, groups, job.rows, groups, job.scales);
    if (format.highest_min > 0) {
        scatter(tile.dmin, blocks, job.rows, blocks, job.dmin);
        scatter(tile.min, groups, job.rows, groups, job.mins);
    }
}

inline void load_rows(const Tile& tile, const Format& format, const Rows& job) {
    const std::int64_t groups = job.columns / format.group;
    const std::int64_t blocks = job.columns / format.block;
    gather(job.x, job.columns, job.rows, job.columns, tile.w);
    gather(job.values, job.columns, job.rows, job.columns, tile.value);
    gather(job.d, blocks, job.rows, blocks, tile.d);
    gather(job.scales, groups, job.rows, groups, tile.scale);
    if (format.highest_min > 0) {
        gather(job.dmin, blocks, job.rows, blocks, tile.dmin);
        gather(job.mins, groups, job.rows, groups, tile.min);
    }
}

inline void round_rows(const Rows& job, const Format& format, const Effort& effort, float* scratch) {
    const Tile tile = tile_in(scratch, job.columns, format);
    load_rows(tile, format, job);
    decode(tile, format);
    const F before = measure(tile, job.moments);
    if (job.factor != nullptr) {
        keep(tile);
        feed_back(tile, format, job.factor, tile.slope);
        const F error = measure(tile, job.moments);
        const M worse = !(error < before);
        if (any(worse)) {
            restore(tile, worse);
            measure(tile, job.moments);
        }
    }
    for (int i = 0; i < effort.sweeps; ++i) sweep(tile, format, effort, job.moments);
    decode(tile, format);
    const F after = measure(tile, job.moments);
    scatter(&before, 1, job.rows, 1, job.before);
    const M better = after < before;
    const F chosen = select(better, after, before);
    scatter(&chosen, 1, job.rows, 1, job.after);
    if (any(!better)) {  // rows that are not better keep their start
        const std::int64_t groups = job.columns / format.group;
        const std::int64_t blocks = job.columns / format.block;
        const auto old = [&](const float* from, std::int64_t stride, std::int64_t count, F* now) {
            gather(from, stride, job.rows, count, tile.slope);
            for (std::int64_t i = 0; i < count; ++i) now[i] = select(better, now[i], tile.slope[i]);
        };
        old(job.values, job.columns, job.columns, tile.value);
        old(job.d, blocks, blocks, tile.d);
        old(job.scales, groups, groups, tile.scale);
        if (format.highest_min > 0) {
            old(job.dmin, blocks, blocks, tile.dmin);
            old(job.mins, groups, groups, tile.min);
        }
    }
    store_rows(tile, format, job);
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
