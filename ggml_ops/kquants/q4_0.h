// Q4_0, 18 bytes: d (FP16), 16 bytes of nibbles. As quantize_row_q4_0_ref and _impl of ggml-quants.c.
#pragma once

#include "legacy_block.h"
#include "search_scale.h"

namespace kquants::SIMD_TARGET {
namespace {

inline bool write_q4_0(F d, const I* l, std::uint8_t* const (&out)[lanes]) {
    I words[4];
    pack_nibbles(l, words);
    store_fp16(to_fp16(d), out, 0);
    store_words(words, out, 2);
    return fits_fp16(to_fp16(d));
}

inline bool quantize_q4_0(const Rows& job) {
    if (job.importance != nullptr) {
        return for_each_weighted_tile<18>(job, [](const Tile<32>& tile, const F* w, std::uint8_t* const(&out)[lanes]) {
            const Scale found = search_scale<32, true>(tile.x, w, 8);
            I l[32];
            for (int i = 0; i < 32; ++i) l[i] = searched_quant(found, tile.x[i], 8);
            return write_q4_0(found.scale, l, out);
        });
    }
    return for_each_tile<32, 18>(job, [](const Tile<32>& tile, std::uint8_t* const(&out)[lanes]) {
        const F d = extreme<32>(tile.x).value / set(-8.F);
        const F inverse = inverse_or_zero(d);
        I l[32];
        for (int i = 0; i < 32; ++i) l[i] = to_byte(tile.x[i] * inverse, 8.5F, 15);
        return write_q4_0(d, l, out);
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
