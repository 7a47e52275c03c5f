// IQ4_XS, 136 bytes: d (FP16), 16 high bits of the eight six-bit scales, 4 bytes of their low ones, 128 bytes of
// quants. IQ4_NL, 18 bytes: d (FP16), 16 bytes of quants. A quant is an index into sixteen uneven levels; of 32
// weights, the first 16 are in the low nibbles. As quantize_row_iq4_nl_impl of ggml-quants.c with its seven tries to
// each side.
#pragma once

#include "search_scale.h"
#include "tile.h"

namespace kquants::SIMD_TARGET {
namespace {

inline constexpr float iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// ggml compares the distances to both neighbours and takes the upper one at a tie. Comparing with the midpoint decides
// alike: it is a float, and the rounding of the two differences never crosses the tie (tests/ggml_ops checks all 15).
inline constexpr float iq4_midpoint(int i) { return 0.5F * (iq4_levels[i] + iq4_levels[i + 1]); }

// The values on both sides of the midpoint in each of 32 cells of width 8. No cell has two midpoints, and each midpoint
// is at least 0.5 away from the borders of its cell: one comparison decides within a cell, however its border is
// rounded.
struct LevelCells {
    float midpoint[32] = {};
    float below[32] = {};
    float above[32] = {};
};

constexpr LevelCells level_cells(bool as_index) {
    LevelCells cells;
    for (int cell = 0; cell < 32; ++cell) {
        const float top = static_cast<float>(8 * (cell - 16) + 4);
        int next = 0;  // the first midpoint that is not below this cell
        while (next < 14 && iq4_midpoint(next) < top - 8.F) ++next;
        const bool inside = iq4_midpoint(next) >= top - 8.F && iq4_midpoint(next) < top;
        const int low = iq4_midpoint(next) < top - 8.F ? 15 : next;
        const int high = inside ? next + 1 : low;
        cells.midpoint[cell] = iq4_midpoint(next);
        cells.below[cell] = as_index ? static_cast<float>(low) : iq4_levels[low];
        cells.above[cell] = as_index ? static_cast<float>(high) : iq4_levels[high];
    }
    return cells;
}

// The level nearest to x, or its index. NaN counts as large.
template <bool AsIndex>
F nearest_level(F x) {
    if constexpr (has_look_up) {
        alignas(64) static constexpr LevelCells cells = level_cells(AsIndex);
        const F limited = max(min(x, set(113.F)), set(-127.F));
        const I cell = bits(limited * set(0.125F) + set(12582912.F + 16.F));
        return select(x < look_up(cells.midpoint, cell), look_up(cells.below, cell), look_up(cells.above, cell));
    } else {
        const auto value = [](int i) { return set(AsIndex ? static_cast<float>(i) : iq4_levels[i]); };
        F level = value(0);
        for (int i = 0; i < 15; ++i) level = select(x < set(iq4_midpoint(i)), level, value(i + 1));
        return level;
    }
}

// The sums of w q x and w q^2 for several guesses.
template <int Guesses>
Fits<Guesses> try_levels(const F* x, const F* w, Inverses<Guesses> inverse) {
    Fits<Guesses> sum;
    for (int k = 0; k < Guesses; ++k) sum.lx[k] = sum.l2[k] = zero();
    for (int i = 0; i < 32; ++i) {
        for (int k = 0; k < Guesses; ++k) {
            const F q = nearest_level<false>(inverse.of[k] * x[i]);
            const F wq = w[i] * q;
            sum.lx[k] = sum.lx[k] + wq * x[i];
            sum.l2[k] = sum.l2[k] + wq * q;
        }
    }
    return sum;
}

// The scale of 32 weights; zero if they are (nearly) zero.
inline F search_level_scale(const F* x, const F* w) {
    constexpr int guesses = 3;
    const Extreme e = extreme<32>(x);
    const Fits<1> first = try_levels<1>(x, w, {{set(1.F) / (-e.value / set(iq4_levels[0]))}});
    F scale = select(first.l2[0] > zero(), first.lx[0] / first.l2[0], zero());
    F best = scale * first.lx[0];
    for (int step = -7; step <= 7; step += guesses) {
        Inverses<guesses> inverse;
        for (int k = 0; k < guesses; ++k) inverse.of[k] = set(static_cast<float>(step + k) + iq4_levels[0]) / e.value;
        const Fits<guesses> fit = try_levels<guesses>(x, w, inverse);
        for (int k = 0; k < guesses; ++k) {
            const M better = (fit.l2[k] > zero()) & (fit.lx[k] * fit.lx[k] > best * fit.l2[k]);
            if (any(better)) {
                const F found = fit.lx[k] / fit.l2[k];
                scale = select(better, found, scale);
                best = select(better, found * fit.lx[k], best);
            }
        }
    }
    return clear_if(e.magnitude < set(group_max_eps), scale);
}

// The weights of the search: x squared, or importance times the size of x within its block.
inline void level_weights(const F* x, const F* importance, bool has_importance, F sigma2, F (&w)[32]) {
    for (int i = 0; i < 32; ++i) {
        w[i] = has_importance ? importance[i] * sqrt(sigma2 + x[i] * x[i]) : x[i] * x[i];
    }
}

// 32 weights become four words of nibbles.
inline void pack_levels(const F* x, F inverse, I* words) {
    I q[32];
    for (int i = 0; i < 32; ++i) q[i] = truncate(nearest_level<true>(inverse * x[i]));
    for (int i = 0; i < 16; i += 4) {
        words[i / 4] =
            word(q[i], q[i + 1], q[i + 2], q[i + 3]) | shift_left<4>(word(q[i + 16], q[i + 17], q[i + 18], q[i + 19]));
    }
}

inline bool quantize_iq4_xs(const Rows& job) {
    return for_each_tile<256, 136>(job, [](const Tile<256>& tile, std::uint8_t* const(&out)[lanes]) {
        const F sigma2 = sum_of_squares<256>(tile.x) * set(2.F / 256.F);
        F scale[8];
        F most = zero();
        F magnitude = zero();
        for (int j = 0; j < 8; ++j) {
            F w[32];
            level_weights(tile.x + 32 * j, tile.importance + 32 * j, tile.has_importance, sigma2, w);
            scale[j] = search_level_scale(tile.x + 32 * j, w);
            const M larger = abs(scale[j]) > magnitude;
            magnitude = select(larger, abs(scale[j]), magnitude);
            most = select(larger, scale[j], most);
        }
        const F d = -most / set(32.F);
        const F inverse = inverse_or_zero(d);
        const I bits_of_d = to_fp16(d);
        I words[34], low[8];
        I high = set(0);
        for (int j = 7; j >= 0; --j) {
            const I l = clamp(nearest(inverse * scale[j]), -32, 31);
            const F decoded = d * to_float(l);
            pack_levels(tile.x + 32 * j, inverse_or_zero(decoded), words + 2 + 4 * j);
            low[j] = (l + set(32)) & set(15);
            high = shift_left<2>(high) | shift_right<4>(l + set(32));
        }
        words[0] = bits_of_d | shift_left<16>(high);
        words[1] = word(low[0], low[2], low[4], low[6]) | shift_left<4>(word(low[1], low[3], low[5], low[7]));
        store_words(words, out);
        return fits_fp16(bits_of_d);
    });
}

inline bool quantize_iq4_nl(const Rows& job) {
    return for_each_tile<32, 18>(job, [](const Tile<32>& tile, std::uint8_t* const(&out)[lanes]) {
        const F sigma2 = sum_of_squares<32>(tile.x) * set(2.F / 32.F);
        F w[32];
        level_weights(tile.x, tile.importance, tile.has_importance, sigma2, w);
        const F scale = search_level_scale(tile.x, w);
        const I bits_of_d = to_fp16(scale);
        I words[4];
        pack_levels(tile.x, inverse_or_zero(scale), words);
        store_fp16(bits_of_d, out, 0);
        store_words(words, out, 2);
        return fits_fp16(bits_of_d);
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
