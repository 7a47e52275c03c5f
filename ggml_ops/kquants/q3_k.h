// Q3_K, 110 bytes: 32 bytes of third bits, 64 bytes of the two low ones, 12 bytes of six-bit scales, d (FP16).
// As quantize_row_q3_K_ref and _impl of ggml-quants.c.
#pragma once

#include "search_scale.h"
#include "tile.h"
#include "two_bits.h"

namespace kquants::SIMD_TARGET {
namespace {

inline bool quantize_q3_k(const Rows& job) {
    return for_each_tile<256, 110>(job, [](const Tile<256>& tile, std::uint8_t* const(&out)[lanes]) {
        F scale[16];
        F searched[256];  // quants of the search, from 0 to 7: where the decoded scale is zero, they stay
        I s[16], d;
        if (tile.has_importance) {
            const F sigma2 = set(2.F) * sum_of_squares<256>(tile.x) / set(256.F);
            F weight[16];
            for (int j = 0; j < 16; ++j) {
                const F* x = tile.x + 16 * j;
                F w[16];
                weight[j] = zero();
                for (int i = 0; i < 16; ++i) {
                    w[i] = tile.importance[16 * j + i] * sqrt(sigma2 + x[i] * x[i]);
                    weight[j] = weight[j] + w[i];
                }
                const Scale found = search_scale<16, true>(x, w, 4);
                scale[j] = found.scale;
                for (int i = 0; i < 16; ++i) searched[16 * j + i] = to_float(searched_quant(found, x[i], 4));
            }
            const Scale found = search_scale<16, false>(scale, weight, 32);
            d = to_fp16(found.scale);
            for (int j = 0; j < 16; ++j) s[j] = searched_quant(found, scale[j], 32);
        } else {
            constexpr int ways = 4;
            F most = zero();
            F magnitude = zero();
            for (int j = 0; j < 16; j += ways) {
                F group[ways];
                search_scale_by_moves<16, ways>(tile.x + 16 * j, 4, group, searched + 16 * j);
                for (int k = 0; k < ways; ++k) scale[j + k] = group[k];
            }
            for (int j = 0; j < 16; ++j) {
                const M larger = abs(scale[j]) > magnitude;
                magnitude = select(larger, abs(scale[j]), magnitude);
                most = select(larger, scale[j], most);
            }
            const M none = is_zero(most);
            const F inverse = set(-32.F) / most;
            d = to_fp16(clear_if(none, set(1.F) / inverse));
            for (int j = 0; j < 16; ++j) {
                const I signed_byte = shift_right_signed<24>(shift_left<24>(nearest(inverse * scale[j])));
                s[j] = select(none, set(0), clamp(signed_byte, -32, 31) + set(32));
            }
        }

        I l[256];
        for (int j = 0; j < 16; ++j) {
            const F decoded = from_fp16(d) * to_float(s[j] - set(32));
            const F* x = tile.x + 16 * j;
            for (int i = 0; i < 16; ++i) l[16 * j + i] = clamp(nearest(x[i] / decoded), -4, 3) + set(4);
            const M unscaled = is_zero(decoded);
            if (any(unscaled)) {
                for (int i = 16 * j; i < 16 * j + 16; ++i) l[i] = select(unscaled, truncate(searched[i]), l[i]);
            }
        }

        I words[28];
        for (int i = 0; i < 8; ++i) {
            words[i] = set(0);
            for (int k = 7; k >= 0; --k) {
                const I* q = l + 32 * k + 4 * i;
                words[i] = shift_left<1>(words[i]) | (shift_right<2>(word(q[0], q[1], q[2], q[3])) & set(0x01010101));
            }
        }
        pack_two_bits(l, words + 8);
        I low[8], high[4];
        for (int j = 0; j < 8; ++j) low[j] = (s[j] & set(15)) | shift_left<4>(s[j + 8] & set(15));
        for (int j = 0; j < 4; ++j) {
            high[j] = shift_right<4>(s[j]) | shift_left<2>(shift_right<4>(s[j + 4])) |
                      shift_left<4>(shift_right<4>(s[j + 8])) | shift_left<6>(shift_right<4>(s[j + 12]));
        }
        words[24] = word(low[0], low[1], low[2], low[3]);
        words[25] = word(low[4], low[5], low[6], low[7]);
        words[26] = word(high[0], high[1], high[2], high[3]);
        words[27] = d;
        I body[27];
        for (int i = 0; i < 27; ++i) body[i] = words[i];
        store_words(body, out);
        store_fp16(d, out, 108);
        return fits_fp16(d);
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
