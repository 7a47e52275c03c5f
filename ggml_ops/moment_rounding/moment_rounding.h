// Rounding rows of weights so that the quadratic error (q - w)^T H (q - w) falls, where H has the second moments of the
// inputs: error feedback, then descent over quants, scales and mins. A row is in each SIMD lane, and no sum crosses
// lanes; multiply-adds are fused, on every target, where they are written so: all targets and all numbers of threads
// give the same bits.
//
// Sources: GPTQ (Frantar et al. 2022) and LDLQ (Chee et al. 2023) for the feedback, coordinate descent as in QuantEase
// (Behdin et al. 2023). No threads, no allocation, no exceptions here.
#pragma once

#include <cstdint>

#include "../simd/span.h"

namespace moment_rounding {

inline constexpr int panel = 256;        // columns that are rounded before the others hear of it
inline constexpr int most_tiles = 8;     // of rows, one for each lane, that read the moments together
inline constexpr int factor_panel = 64;  // rows of the factor that are finished together
inline constexpr int most_levels = 16;   // of a format with uneven levels

// How a format decodes a weight: level(quant) * d * scale - dmin * min.
struct Format {
    int block;     // weights that share d and dmin
    int group;     // weights that share a scale and a min
    float lowest;  // the smallest and the largest quant; of uneven levels, which are given in order
    float highest;
    float lowest_scale;  // equal to highest_scale if there are no scales but d
    float highest_scale;
    float highest_min;    // 0 if there are no mins
    const float* levels;  // most_levels of them, or null
};

// Rows of one matrix and what they are rounded to, changed in place; quants are levels' values.
struct Rows {
    const float* x;  // rows x columns
    float* values;
    float* d;       // rows x blocks
    float* dmin;    // null without mins
    float* scales;  // rows x groups
    float* mins;    // null without mins
    std::int64_t rows;
    std::int64_t columns;
    const float* moments;  // columns x columns, symmetric
    const float* factor;   // the same of `factorize`, or null for no feedback
    float* before;         // one error for each row, before and after
    float* after;
};

// Rows `first` and up to `most` - 1 that follow.
inline Rows part_of(const Rows& all, const Format& format, std::int64_t first, std::int64_t most) {
    const std::int64_t blocks = all.columns / format.block;
    const std::int64_t groups = all.columns / format.group;
    const bool with_mins = format.highest_min > 0;
    return {all.x + first * all.columns,
            all.values + first * all.columns,
            all.d + first * blocks,
            with_mins ? all.dmin + first * blocks : nullptr,
            all.scales + first * groups,
            with_mins ? all.mins + first * groups : nullptr,
            most < all.rows - first ? most : all.rows - first,
            all.columns,
            all.moments,
            all.factor,
            all.before + first,
            all.after + first};
}

// How often the steps are repeated.
struct Effort {
    int sweeps;  // over all panels
    int rounds;  // of quants and scales in a panel
    int passes;  // of the descent over quants in a round, fewer if nothing changes
};

struct Target {
    const char* name;
    bool (*supported)();
    int lanes;
    // Floats of scratch, 64-byte aligned, for tiles of `lanes` rows.
    std::int64_t (*scratch_floats)(std::int64_t columns, const Format&, std::int64_t tiles);
    // Rounds at most `lanes` * most_tiles rows, with scratch for their tiles.
    void (*round_rows)(const Rows&, const Format&, const Effort&, float* scratch);
    // Steps of H = M^T D M, M unit lower triangular, from the last column to the first: `update` subtracts from rows
    // first..last-1 what rows from `last` on explain of columns from..to-1, `eliminate` then finishes these rows.
    void (*update)(float* h, std::int64_t n, std::int64_t first, std::int64_t last, std::int64_t from, std::int64_t to);
    void (*eliminate)(float* h, std::int64_t n, std::int64_t first, std::int64_t last, float floor);
};

// The targets compiled in, best first; the last one runs anywhere.
simd::Span<const Target* const> targets();

}  // namespace moment_rounding
