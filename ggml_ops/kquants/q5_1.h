// Q5_1, 24 bytes: d, m (FP16), 32 fifth bits, 16 bytes of nibbles. As quantize_row_q5_1_ref and _impl of ggml-quants.c.
#pragma once

#include "legacy_block.h"
#include "search_scale_min.h"

namespace kquants::SIMD_TARGET {
namespace {

inline bool write_q5_1(F d, F m, const I* l, std::uint8_t* const (&out)[lanes]) {
    I words[6];
    words[0] = to_fp16(d) | shift_left<16>(to_fp16(m));
    words[1] = pack_fifth_bits(l);
    pack_nibbles(l, words + 2);
    store_words(words, out);
    return fits_fp16(to_fp16(d)) && fits_fp16(to_fp16(m));
}

inline bool quantize_q5_1(const Rows& job) {
    if (job.importance != nullptr) {
        return for_each_weighted_tile<24>(job, [](const Tile<32>& tile, const F* w, std::uint8_t* const(&out)[lanes]) {
            ScaleMin found[1];
            search_scale_min<32, 1, false>(tile.x, w, 31.F, {-0.9F, 0.05F, 36}, found);
            I l[32];
            for (int i = 0; i < 32; ++i) l[i] = searched_quant(found[0], tile.x[i], 31);
            return write_q5_1(found[0].scale, -found[0].minimum, l, out);
        });
    }
    return for_each_tile<32, 24>(job, [](const Tile<32>& tile, std::uint8_t* const(&out)[lanes]) {
        const Range r = range(tile.x);
        const F d = (r.high - r.low) / set(31.F);
        const F inverse = inverse_or_zero(d);
        I l[32];
        for (int i = 0; i < 32; ++i) l[i] = byte(truncate((tile.x[i] - r.low) * inverse + set(0.5F)));
        return write_q5_1(d, r.low, l, out);
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
