// Q6_K, 210 bytes: 128 bytes of low nibbles, 64 bytes of the two high bits, 16 signed scales, d (FP16).
// As quantize_row_q6_K_ref and _impl of ggml-quants.c.
#pragma once

#include "search_scale.h"
#include "tile.h"

namespace kquants::SIMD_TARGET {
namespace {

inline bool quantize_q6_k(const Rows& job) {
    return for_each_tile<256, 210>(job, [](const Tile<256>& tile, std::uint8_t* const(&out)[lanes]) {
        Scale found[16];
        F most = zero();
        F magnitude = zero();
        for (int j = 0; j < 16; ++j) {
            const F* x = tile.x + 16 * j;
            if (tile.has_importance) {
                found[j] = search_scale<16, true>(x, tile.importance + 16 * j, 32);
            } else {
                F w[16];
                for (int i = 0; i < 16; ++i) w[i] = x[i] * x[i];
                found[j] = search_scale<16, true>(x, w, 32);
            }
            const F size = abs(found[j].scale);
            const M larger = size > magnitude;
            magnitude = select(larger, size, magnitude);
            most = select(larger, found[j].scale, most);
        }
        const M empty = magnitude < set(group_max_eps);  // the whole block becomes zero bytes
        const F inverse = set(-128.F) / most;
        const I d = select(empty, set(0), to_fp16(set(1.F) / inverse));

        I l[256], s[16];
        for (int j = 0; j < 16; ++j) {
            const F* x = tile.x + 16 * j;
            const I scale = min(set(127), nearest(inverse * found[j].scale));
            const F decoded = from_fp16(d) * to_float(shift_right_signed<24>(shift_left<24>(scale)));
            s[j] = select(empty, set(0), byte(scale));
            for (int i = 0; i < 16; ++i) l[16 * j + i] = clamp(nearest(x[i] / decoded), -32, 31) + set(32);
            const M unscaled = is_zero(decoded);
            if (any(unscaled)) {
                for (int i = 0; i < 16; ++i) {
                    l[16 * j + i] = select(unscaled, searched_quant(found[j], x[i], 32), l[16 * j + i]);
                }
            }
        }
        if (any(empty)) {
            for (I& q : l) q = select(empty, set(0), q);
        }

        I words[52];
        const I nibbles = set(0x0F0F0F0F);
        const I pairs = set(0x03030303);
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 8; ++i) {
                I q[4];
                for (int k = 0; k < 4; ++k) {
                    const I* at = l + 128 * half + 32 * k + 4 * i;
                    q[k] = word(at[0], at[1], at[2], at[3]);
                }
                words[16 * half + i] = (q[0] & nibbles) | shift_left<4>(q[2] & nibbles);
                words[16 * half + 8 + i] = (q[1] & nibbles) | shift_left<4>(q[3] & nibbles);
                words[32 + 8 * half + i] =
                    (shift_right<4>(q[0]) & pairs) | shift_left<2>(shift_right<4>(q[1]) & pairs) |
                    shift_left<4>(shift_right<4>(q[2]) & pairs) | shift_left<6>(shift_right<4>(q[3]) & pairs);
            }
        }
        for (int i = 0; i < 4; ++i) words[48 + i] = word(s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]);
        store_words(words, out);
        store_fp16(d, out, 208);
        return fits_fp16(d);
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
