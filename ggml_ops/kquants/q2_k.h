// Q2_K, 84 bytes: 16 bytes of four-bit scales (low nibble) and mins, 64 bytes of quants, d, dmin (FP16).
// As quantize_row_q2_K_ref and _impl of ggml-quants.c.
#pragma once

#include "search_positive.h"
#include "search_scale_min.h"
#include "tile.h"
#include "two_bits.h"

namespace kquants::SIMD_TARGET {
namespace {

inline bool quantize_q2_k(const Rows& job) {
    return for_each_tile<256, 84>(job, [](const Tile<256>& tile, std::uint8_t* const(&out)[lanes]) {
        constexpr int ways = 4;
        ScaleMin found[16];
        F scale[16], minimum[16], weight[16];
        const F sigma2 = sum_of_squares<256>(tile.x) / set(256.F);
        for (int j = 0; j < 16; j += ways) {
            F w[16 * ways];
            ScaleMin group[ways];
            const F* x = tile.x + 16 * j;
            const F* importance = tile.importance + 16 * j;
            if (tile.has_importance) {
                for (int i = 0; i < 16 * ways; ++i) w[i] = importance[i] * sqrt(sigma2 + x[i] * x[i]);
                search_scale_min<16, ways, false>(x, w, 3.F, {-0.9F, 0.05F, 36}, group);
            } else {
                for (int i = 0; i < 16 * ways; ++i) w[i] = abs(x[i]);
                search_scale_min<16, ways, true>(x, w, 3.F, {-0.5F, 0.1F, 15}, group);
            }
            for (int k = 0; k < ways; ++k) {
                found[j + k] = group[k];
                scale[j + k] = group[k].scale;
                minimum[j + k] = group[k].minimum;
                weight[j + k] = zero();
                for (int i = 0; i < 16; ++i) weight[j + k] = weight[j + k] + w[16 * k + i];
            }
        }

        I s[16], m[16], d, dmin;
        if (tile.has_importance) {
            d = to_fp16(search_positive(scale, weight, 15, s));
            dmin = to_fp16(search_positive(minimum, weight, 15, m));
        } else {
            F most_scale = zero();
            F most_minimum = zero();
            for (int j = 0; j < 16; ++j) {
                most_scale = max(scale[j], most_scale);
                most_minimum = max(minimum[j], most_minimum);
            }
            const M no_scale = !(most_scale > zero());
            const M no_minimum = !(most_minimum > zero());
            const F inverse_scale = set(15.F) / most_scale;
            const F inverse_minimum = set(15.F) / most_minimum;
            for (int j = 0; j < 16; ++j) {
                s[j] = select(no_scale, set(0), byte(nearest(inverse_scale * scale[j])));
                m[j] = select(no_minimum, set(0), nearest(inverse_minimum * minimum[j]));
            }
            d = to_fp16(clear_if(no_scale, most_scale / set(15.F)));
            dmin = to_fp16(clear_if(no_minimum, most_minimum / set(15.F)));
        }

        I l[256], words[21];
        for (int j = 0; j < 16; ++j) {
            s[j] = byte(s[j] | shift_left<4>(m[j]));
            const F decoded_scale = from_fp16(d) * to_float(s[j] & set(15));
            const F decoded_minimum = from_fp16(dmin) * to_float(shift_right<4>(s[j]));
            requantize(tile.x + 16 * j, decoded_scale, decoded_minimum, found[j], 16, 3, l + 16 * j);
        }
        for (int i = 0; i < 4; ++i) words[i] = word(s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]);
        pack_two_bits(l, words + 4);
        words[20] = d | shift_left<16>(dmin);
        store_words(words, out);
        return fits_fp16(d) && fits_fp16(dmin);
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
