// Q5_K, 176 bytes: as Q4_K, with 32 bytes of fifth bits (bit 2 n and 2 n + 1 for the two halves of the n-th 64 weights)
// before the 128 bytes of nibbles. As quantize_row_q5_K_ref and _impl of ggml-quants.c.
#pragma once

#include "scales_6bit.h"
#include "search_scale_min.h"
#include "tile.h"

namespace kquants::SIMD_TARGET {
namespace {

inline bool quantize_q5_k(const Rows& job) {
    return for_each_tile<256, 176>(job, [](const Tile<256>& tile, std::uint8_t* const(&out)[lanes]) {
        SubBlocks sub;
        search_sub_blocks(tile, 31, {-0.5F, 0.1F, 15}, sub);
        const SixBit six = six_bit_scales(sub, tile.has_importance, 63);
        I words[44];
        words[0] = six.d | shift_left<16>(six.dmin);
        for (int i = 0; i < 3; ++i) words[1 + i] = six.words[i];
        I* fifth = words + 4;
        for (int i = 0; i < 8; ++i) fifth[i] = set(0);
        const I nibbles = set(0x0F0F0F0F);
        const I bits = set(0x01010101);
        for (int n = 3; n >= 0; --n) {  // from the last, so that each round pushes the bits of the one before up
            I low[32], high[32];
            const int j = 2 * n;
            requantize(tile.x + 32 * j, six.scale[j], six.minimum[j], sub.found[j], 32, 31, low);
            requantize(tile.x + 32 * j + 32, six.scale[j + 1], six.minimum[j + 1], sub.found[j + 1], 32, 31, high);
            for (int i = 0; i < 8; ++i) {
                const I a = word(low[4 * i], low[4 * i + 1], low[4 * i + 2], low[4 * i + 3]);
                const I b = word(high[4 * i], high[4 * i + 1], high[4 * i + 2], high[4 * i + 3]);
                words[12 + 8 * n + i] = (a & nibbles) | shift_left<4>(b & nibbles);
                fifth[i] =
                    shift_left<2>(fifth[i]) | (shift_right<4>(a) & bits) | shift_left<1>(shift_right<4>(b) & bits);
            }
        }
        store_words(words, out);
        return fits_fp16(six.d) && fits_fp16(six.dmin);
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
