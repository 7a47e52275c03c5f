// What Q4_K and Q5_K have in common: eight sub-blocks of 32 weights, each with a scale and a minimum of six bits.
#pragma once

#include "search_positive.h"
#include "search_scale_min.h"
#include "tile.h"

namespace kquants::SIMD_TARGET {
namespace {

struct SubBlocks {
    ScaleMin found[8];
    F weight[8];  // sums of the weights of the search
};

struct SixBit {
    I words[3];  // twelve bytes: scales and mins interleaved as get_scale_min_k4 of ggml-quants.c reads them
    I d, dmin;   // FP16
    F scale[8];  // d * scale and dmin * minimum, as they are decoded
    F minimum[8];
};

inline void search_sub_blocks(const Tile<256>& tile, int nmax, Steps plain, SubBlocks& found) {
    constexpr int ways = 4;
    const F sigma2 = set(2.F) * sum_of_squares<256>(tile.x) / set(256.F);
    for (int j = 0; j < 8; j += ways) {
        F w[32 * ways];
        for (int k = 0; k < ways; ++k) {
            const F* x = tile.x + 32 * (j + k);
            const F* importance = tile.importance + 32 * (j + k);
            if (tile.has_importance) {
                for (int i = 0; i < 32; ++i) w[32 * k + i] = importance[i] * sqrt(sigma2 + x[i] * x[i]);
            } else {
                const F average = sqrt(sum_of_squares<32>(x) / set(32.F));
                for (int i = 0; i < 32; ++i) w[32 * k + i] = average + abs(x[i]);
            }
            F sum = zero();
            for (int i = 0; i < 32; ++i) sum = sum + w[32 * k + i];
            found.weight[j + k] = sum;
        }
        ScaleMin pair[ways];
        const Steps steps = tile.has_importance ? Steps{-0.9F, 0.05F, 36} : plain;
        search_scale_min<32, ways, false>(tile.x + 32 * j, w, static_cast<float>(nmax), steps, pair);
        for (int k = 0; k < ways; ++k) found.found[j + k] = pair[k];
    }
}

// Rounds scales and mins to six bits. Searched: by least squares over the super-block; else by the largest.
inline SixBit six_bit_scales(const SubBlocks& sub, bool searched, int limit) {
    SixBit six;
    I s[8], m[8];
    if (searched) {
        F scales[8], mins[8];
        for (int j = 0; j < 8; ++j) {
            scales[j] = sub.found[j].scale;
            mins[j] = sub.found[j].minimum;
        }
        six.d = to_fp16(search_positive(scales, sub.weight, 63, s));
        six.dmin = to_fp16(search_positive(mins, sub.weight, 63, m));
        for (int j = 0; j < 8; ++j) {
            s[j] = min(set(limit), s[j]);
            m[j] = min(set(limit), m[j]);
        }
    } else {
        F most_scale = zero();
        F most_minimum = zero();
        for (int j = 0; j < 8; ++j) {
            most_scale = max(sub.found[j].scale, most_scale);
            most_minimum = max(sub.found[j].minimum, most_minimum);
        }
        const F inverse_scale = select(most_scale > zero(), set(63.F) / most_scale, zero());
        const F inverse_minimum = select(most_minimum > zero(), set(63.F) / most_minimum, zero());
        for (int j = 0; j < 8; ++j) {
            s[j] = min(set(63), byte(nearest(inverse_scale * sub.found[j].scale)));
            m[j] = min(set(63), byte(nearest(inverse_minimum * sub.found[j].minimum)));
        }
        six.d = to_fp16(most_scale / set(63.F));
        six.dmin = to_fp16(most_minimum / set(63.F));
    }
    I bytes[12];
    for (int j = 0; j < 4; ++j) {
        bytes[j] = byte(s[j] | shift_left<6>(shift_right<4>(s[j + 4])));
        bytes[j + 4] = byte(m[j] | shift_left<6>(shift_right<4>(m[j + 4])));
        bytes[j + 8] = (s[j + 4] & set(15)) | shift_left<4>(m[j + 4] & set(15));
    }
    for (int i = 0; i < 3; ++i) six.words[i] = word(bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]);
    const F d = from_fp16(six.d);
    const F dmin = from_fp16(six.dmin);
    for (int j = 0; j < 4; ++j) {
        six.scale[j] = d * to_float(bytes[j] & set(63));
        six.minimum[j] = dmin * to_float(bytes[j + 4] & set(63));
        const I high_scale = shift_left<4>(shift_right<6>(bytes[j]));
        const I high_minimum = shift_left<4>(shift_right<6>(bytes[j + 4]));
        six.scale[j + 4] = d * to_float((bytes[j + 8] & set(15)) | high_scale);
        six.minimum[j + 4] = dmin * to_float(shift_right<4>(bytes[j + 8]) | high_minimum);
    }
    return six;
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
