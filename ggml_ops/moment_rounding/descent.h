// Coordinate descent in a panel: each quant, scale, min, d and dmin moves to the best value while the others stay, if
// the error falls by that. A move by `delta` of column i changes the error by 2 delta slope_i + delta^2 H_ii.
#pragma once

#include "matmul.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

// Where a move pays: it changes something, and the error falls.
inline M pays(F delta, F slope, F curvature) {
    const F gain = delta * (slope + slope) + delta * delta * curvature;
    return gain < zero();
}

// Moves every quant once; returns whether any moved. The columns of a strip hear of a move immediately, the others
// after the strip.
inline bool move_quants(const Tile& tile, const Format& format, const Panel& panel) {
    bool any_moved = false;
    for (std::int64_t from = 0; from < panel.count; from += strip) {
        int moved[strip];
        std::int64_t count = 0;
        for (std::int64_t j = from; j < from + strip; ++j) {
            const float curvature = panel.at(j, j);
            if (!(curvature > 0)) continue;
            const std::int64_t i = panel.first + j;
            const F scale = group_scale(tile, format, i / format.group);
            const F min = group_min(tile, format, i / format.group);
            const F wanted = tile.decoded[i] - tile.slope[j] / set(curvature);
            const F value = nearest_level(format, (wanted + min) * inverse_or_zero(scale));
            const F decoded = value * scale - min;
            const F delta = decoded - tile.decoded[i];
            const M better = pays(delta, tile.slope[j], set(curvature));
            if (!any(better)) continue;
            tile.value[i] = select(better, value, tile.value[i]);
            tile.decoded[i] = select(better, decoded, tile.decoded[i]);
            tile.change[count] = select(better, delta, zero());
            moved[count] = static_cast<int>(j);
            spread(tile.change + count, 1, in_order(j), panel, from, from + strip, tile.slope);
            ++count;
        }
        if (count == 0) continue;
        any_moved = true;
        spread(tile.change, count, listed(moved), panel, 0, from, tile.slope);
        spread(tile.change, count, listed(moved), panel, from + strip, panel.count, tile.slope);
    }
    return any_moved;
}

// The sums over `count` columns of a panel, from `first` on, of direction * slope, and of direction^T H direction. H
// times the direction is left in tile.reach, for columns from..to-1 of the panel, which have these among them.
struct Line {
    F slope;
    F curvature;
};
inline Line along(const Tile& tile, const Panel& panel, const F* direction, std::int64_t first, std::int64_t count,
                  std::int64_t from, std::int64_t to) {
    for (std::int64_t i = from; i < to; ++i) tile.reach[i] = zero();
    spread(direction, count, in_order(first), panel, from, to, tile.reach);
    Line line{zero(), zero()};
    for (std::int64_t i = 0; i < count; ++i) {
        line.slope = line.slope + direction[i] * tile.slope[first + i];
        line.curvature = line.curvature + direction[i] * tile.reach[first + i];
    }
    return line;
}

inline F decoded_at(const Tile& tile, const Format& format, std::int64_t i) {
    return tile.value[i] * group_scale(tile, format, i / format.group) - group_min(tile, format, i / format.group);
}

// Decodes `count` columns of a panel anew, in the lanes of `better`, and spreads what changed. A direction that is in
// tile.change is lost.
inline void redecode(const Tile& tile, const Format& format, const Panel& panel, std::int64_t first, std::int64_t count,
                     M better) {
    F* decoded = tile.decoded + panel.first + first;
    for (std::int64_t i = 0; i < count; ++i) {
        const F now = decoded_at(tile, format, panel.first + first + i);
        tile.change[i] = select(better, now - decoded[i], zero());
        decoded[i] = select(better, now, decoded[i]);
    }
    spread(tile.change, count, in_order(first), panel, 0, panel.count, tile.slope);
}

// Moves the scale of a group, then its min.
inline void move_group(const Tile& tile, const Format& format, const Panel& panel, std::int64_t group, F* direction) {
    const std::int64_t first = group * format.group - panel.first;
    const std::int64_t block = group * format.group / format.block;
    const auto move = [&](F factor, F& number, float lowest, float highest) {
        const Line line = along(tile, panel, direction, first, format.group, first, first + format.group);
        const F slope = factor * line.slope;
        const F curvature = factor * factor * line.curvature;
        const F step = select(curvature > zero(), -slope / curvature, zero());
        const F wanted = round_even(max(set(lowest), min(set(highest), number + step)));
        const M better = pays(wanted - number, slope, curvature);
        if (!any(better)) return;
        number = select(better, wanted, number);
        redecode(tile, format, panel, first, format.group, better);
    };
    if (format.lowest_scale < format.highest_scale) {
        std::copy_n(tile.value + group * format.group, format.group, direction);
        move(tile.d[block], tile.scale[group], format.lowest_scale, format.highest_scale);
    }
    if (format.highest_min > 0) {
        std::fill_n(direction, format.group, set(-1.F));
        move(tile.dmin[block], tile.min[group], 0.F, format.highest_min);
    }
}

// Moves d of a block, then dmin, to the FP16 number nearest to the best one, of the same sign. The slope changes by the
// move times the reach that `along` left.
inline void move_block(const Tile& tile, const Format& format, const Panel& panel, std::int64_t block, F* direction) {
    const std::int64_t first = block * format.block;
    const auto move = [&](F& number) {
        const Line line = along(tile, panel, direction, first - panel.first, format.block, 0, panel.count);
        const F step = select(line.curvature > zero(), -line.slope / line.curvature, zero());
        const F wanted = from_fp16(to_fp16(number + step));
        const M allowed = (wanted * number > zero()) & (abs(wanted) < set(65536.F));
        const M better = pays(wanted - number, line.slope, line.curvature) & allowed;
        if (!any(better)) return;
        const F change = select(better, wanted - number, zero());
        number = select(better, wanted, number);
        for (std::int64_t i = first; i < first + format.block; ++i) tile.decoded[i] = decoded_at(tile, format, i);
        for (std::int64_t i = 0; i < panel.count; ++i) tile.slope[i] = fused(change, tile.reach[i], tile.slope[i]);
    };
    for (int i = 0; i < format.block; ++i)
        direction[i] = tile.value[first + i] * tile.scale[(first + i) / format.group];
    move(tile.d[block]);
    if (format.highest_min > 0) {
        for (int i = 0; i < format.block; ++i) direction[i] = -tile.min[(first + i) / format.group];
        move(tile.dmin[block]);
    }
}

// Repeats all moves in a panel; `direction` is scratch of `panel` vectors.
inline void descend(const Tile& tile, const Format& format, const Effort& effort, const Panel& panel, F* direction) {
    for (int round = 0;; ++round) {
        for (int pass = 0; pass < effort.passes; ++pass) {
            if (!move_quants(tile, format, panel)) break;
        }
        if (round == effort.rounds) return;
        const std::int64_t end = panel.first + panel.count;
        for (std::int64_t group = panel.first / format.group; group * format.group < end; ++group)
            move_group(tile, format, panel, group, direction);
        for (std::int64_t block = panel.first / format.block; block * format.block < end; ++block)
            move_block(tile, format, panel, block, direction);
    }
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
