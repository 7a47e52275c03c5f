// What Q4_0, Q4_1, Q5_0 and Q5_1 have in common: blocks of 32 weights. With an importance matrix their scales are
// searched, with weights that also depend on the mean square of the whole row.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstdint>

#include "tile.h"

namespace kquants::SIMD_TARGET {
namespace {

// The mean squares of up to `lanes` rows, each summed from left to right as in ggml; lanes are rows here.
template <class Value>
F row_mean_squares(const Value* x, std::int64_t rows, std::int64_t columns) {
    F sum = zero();
    for (std::int64_t column = 0; column < columns; column += 32) {
        const Value* start[lanes];
        for (int lane = 0; lane < lanes; ++lane)
            start[lane] = x + std::min<std::int64_t>(lane, rows - 1) * columns + column;
        F block[32];
        load_transposed(start, 32, block);
        for (const F value : block) sum = sum + value * value;
    }
    return sum / set(static_cast<float>(columns));
}

inline F row_mean_squares(const Rows& job) {
    switch (job.source) {
        case Source::bf16: return row_mean_squares(static_cast<const BFloat16*>(job.x), job.rows, job.columns);
        case Source::f16: return row_mean_squares(static_cast<const Float16*>(job.x), job.rows, job.columns);
        default: return row_mean_squares(static_cast<const float*>(job.x), job.rows, job.columns);
    }
}

// Rows first to first + count of a job with blocks of 32 weights.
inline Rows slice(const Rows& job, std::int64_t first, std::int64_t count, int block_bytes) {
    const std::int64_t value_bytes = job.source == Source::f32 ? 4 : 2;
    Rows part = job;
    part.x = static_cast<const std::uint8_t*>(job.x) + first * job.columns * value_bytes;
    part.blocks = job.blocks + first * (job.columns / 32) * block_bytes;
    part.rows = count;
    return part;
}

// Calls quantize(tile, w, out) with the weights of the search, for jobs with an importance matrix.
template <int Bytes, class Quantize>
bool for_each_weighted_tile(const Rows& job, Quantize quantize) {
    bool fits = true;
    for (std::int64_t first = 0; first < job.rows; first += lanes) {
        const Rows part = slice(job, first, std::min<std::int64_t>(lanes, job.rows - first), Bytes);
        float of_row[lanes];
        store(of_row, row_mean_squares(part));
        fits &= for_each_tile<32, Bytes>(part, [&](const Tile<32>& tile, std::uint8_t* const(&out)[lanes]) {
            float of_lane[lanes];
            for (int lane = 0; lane < lanes; ++lane) of_lane[lane] = of_row[tile.rows[lane]];
            const F sigma2 = load(of_lane);
            F w[32];
            for (int i = 0; i < 32; ++i) w[i] = tile.importance[i] * sqrt(sigma2 + tile.x[i] * tile.x[i]);
            return quantize(tile, static_cast<const F*>(w), out);
        });
    }
    return fits;
}

// x + offset, truncated to an integer and then to a signed byte, at most `most`: the casts of ggml's legacy formats.
inline I to_byte(F x, float offset, int most) {
    const I signed_byte = shift_right_signed<24>(shift_left<24>(truncate(x + set(offset))));
    return byte(min(set(most), signed_byte));
}

struct Range {
    F low, high;
};
inline Range range(const F* x) {
    Range r = {set(FLT_MAX), set(-FLT_MAX)};
    for (int i = 0; i < 32; ++i) r = {min(x[i], r.low), max(x[i], r.high)};
    return r;
}

// 32 quants become four words of nibbles: the first 16 low, the others high.
inline void pack_nibbles(const I* l, I* words) {
    const I nibble = set(0x0F0F0F0F);
    for (int i = 0; i < 16; i += 4) {
        const I low = word(l[i], l[i + 1], l[i + 2], l[i + 3]);
        const I high = word(l[i + 16], l[i + 17], l[i + 18], l[i + 19]);
        words[i / 4] = (low & nibble) | shift_left<4>(high & nibble);
    }
}

// The fifth bits of 32 quants, one word.
inline I pack_fifth_bits(const I* l) {
    I bits = set(0);
    for (int i = 31; i >= 0; --i) bits = shift_left<1>(bits) | (shift_right<4>(l[i]) & set(1));
    return bits;
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
