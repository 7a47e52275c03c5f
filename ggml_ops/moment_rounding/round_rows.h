// Rounds tiles of rows from their start: feedback if it lowers the error, then sweeps of descent; what is not better
// than the start in the end is not taken. Tiles do not depend on each other; together they read the moments once.
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

// Descends in each panel with what it hears of all others; writes the error of each lane of each tile afterwards, which
// each panel adds with the columns before it, whose moves are done.
inline void sweep(Tiles tiles, const Shared& shared, const Format& format, const Effort& effort, const float* moments,
                  F* errors) {
    const std::int64_t n = tiles.begin()->columns;
    std::fill_n(errors, tiles.size(), zero());
    each_panel(tiles, shared, moments, [&](const Panel& own) {
        for (const Tile& tile : tiles) std::copy_n(tile.slope, own.count, tile.below);
        hear(tiles, shared, moments, n, own.first, own.count, own.first, n);
        for (std::size_t i = 0; i < tiles.size(); ++i) {
            const Tile& tile = tiles.begin()[i];
            descend(tile, format, effort, own, tile.change);
            errors[i] = errors[i] + error_of(tile, own);
        }
    });
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

// Writes the errors and what the rows are rounded to; those that are not better than before keep their start.
inline void finish(const Tile& tile, const Format& format, const Rows& job, F before, F after) {
    const M better = after < before;
    const F chosen = select(better, after, before);
    scatter(&before, 1, job.rows, 1, job.before);
    scatter(&chosen, 1, job.rows, 1, job.after);
    if (any(!better)) {
        const std::int64_t groups = job.columns / format.group;
        const std::int64_t blocks = job.columns / format.block;
        const auto old = [&](const float* from, std::int64_t stride, std::int64_t count, F* now) {
            gather(from, stride, job.rows, count, tile.kept_value);
            for (std::int64_t i = 0; i < count; ++i) now[i] = select(better, now[i], tile.kept_value[i]);
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

inline void round_rows(const Rows& job, const Format& format, const Effort& effort, float* scratch) {
    Tile all[most_tiles];
    F before[most_tiles], after[most_tiles];
    const std::int64_t count = (job.rows + lanes - 1) / lanes;
    const Shared shared{scratch, scratch + panel * panel};
    for (std::int64_t i = 0; i < count; ++i) {
        float* own = shared.far + panel * some + i * tile_floats(job.columns, format);
        all[i] = tile_in(own, job.columns, format);
        load_rows(all[i], format, part_of(job, format, i * lanes, lanes));
        decode(all[i], format);
    }
    const Tiles tiles(all, static_cast<std::size_t>(count));
    measure(tiles, shared, job.moments, before);
    std::copy_n(before, count, after);
    if (job.factor != nullptr) {
        for (const Tile& tile : tiles) keep(tile);
        feed_back(tiles, shared, format, job.factor);
        measure(tiles, shared, job.moments, after);
        for (std::int64_t i = 0; i < count; ++i) {
            const M worse = !(after[i] < before[i]);
            if (!any(worse)) continue;
            restore(all[i], worse);
            after[i] = select(worse, before[i], after[i]);
        }
    }
    for (int i = 0; i < effort.sweeps; ++i) sweep(tiles, shared, format, effort, job.moments, after);
    for (std::int64_t i = 0; i < count; ++i)
        finish(all[i], format, part_of(job, format, i * lanes, lanes), before[i], after[i]);
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
