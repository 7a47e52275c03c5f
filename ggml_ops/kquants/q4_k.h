// Q4_K, 144 bytes: d, dmin (FP16), 12 bytes of six-bit scales and mins, 128 bytes of quants: of 64 weights each,
// the first 32 in the low nibbles and the others in the high ones. As quantize_row_q4_K_ref and _impl of ggml-quants.c.
#pragma once

#include "scales_6bit.h"
#include "search_scale_min.h"
#include "tile.h"

namespace kquants::SIMD_TARGET {
namespace {

inline bool quantize_q4_k(const Rows& job) {
    return for_each_tile<256, 144>(job, [](const Tile<256>& tile, std::uint8_t* const(&out)[lanes]) {
        SubBlocks sub;
        search_sub_blocks(tile, 15, {-1.F, 0.1F, 20}, sub);
        const SixBit six = six_bit_scales(sub, tile.has_importance, 255);
        I words[36];
        words[0] = six.d | shift_left<16>(six.dmin);
        for (int i = 0; i < 3; ++i) words[1 + i] = six.words[i];
        for (int j = 0; j < 8; j += 2) {
            I low[32], high[32];
            requantize(tile.x + 32 * j, six.scale[j], six.minimum[j], sub.found[j], 32, 15, low);
            requantize(tile.x + 32 * j + 32, six.scale[j + 1], six.minimum[j + 1], sub.found[j + 1], 32, 15, high);
            for (int i = 0; i < 32; i += 4) {
                words[4 + 4 * j + i / 4] = word(low[i], low[i + 1], low[i + 2], low[i + 3]) |
                                           shift_left<4>(word(high[i], high[i + 1], high[i + 2], high[i + 3]));
            }
        }
        store_words(words, out);
        return fits_fp16(six.d) && fits_fp16(six.dmin);
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
