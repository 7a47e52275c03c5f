// Q5_0, 22 bytes: d (FP16), 32 fifth bits, 16 bytes of nibbles. As quantize_row_q5_0_ref and _impl of ggml-quants.c.
#pragma once

#include "legacy_block.h"
#include "search_scale.h"

namespace kquants::SIMD_TARGET {
namespace {

inline bool write_q5_0(F d, const I* l, std::uint8_t* const (&out)[lanes]) {
    I words[5];
    words[0] = pack_fifth_bits(l);
    pack_nibbles(l, words + 1);
    store_fp16(to_fp16(d), out, 0);
    store_words(words, out, 2);
    return fits_fp16(to_fp16(d));
}

inline bool quantize_q5_0(const Rows& job) {
    if (job.importance != nullptr) {
        return for_each_weighted_tile<22>(job, [](const Tile<32>& tile, const F* w, std::uint8_t* const(&out)[lanes]) {
            const Scale found = search_scale<32, true>(tile.x, w, 16);
            I l[32];
            for (int i = 0; i < 32; ++i) l[i] = searched_quant(found, tile.x[i], 16);
            return write_q5_0(found.scale, l, out);
        });
    }
    return for_each_tile<32, 22>(job, [](const Tile<32>& tile, std::uint8_t* const(&out)[lanes]) {
        const F d = extreme<32>(tile.x).value / set(-16.F);
        const F inverse = inverse_or_zero(d);
        I l[32];
        for (int i = 0; i < 32; ++i) l[i] = to_byte(tile.x[i] * inverse, 16.5F, 31);
        return write_q5_0(d, l, out);
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
