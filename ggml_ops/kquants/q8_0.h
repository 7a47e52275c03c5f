// Q8_0, 34 bytes: d (FP16), 32 signed bytes. As quantize_row_q8_0_ref of ggml-quants.c; an importance matrix has no
// effect.
#pragma once

#include "tile.h"

namespace kquants::SIMD_TARGET {
namespace {

// roundf: to the nearest integer, away from zero at a tie. The largest float below one half pushes exactly the ties
// and larger values over the next integer.
inline I round_away(F a) {
    const F half = set(0.49999997F);
    return truncate(a + select(a < zero(), -half, half));
}

inline bool quantize_q8_0(const Rows& job) {
    Rows plain = job;
    plain.importance = nullptr;
    return for_each_tile<32, 34>(plain, [](const Tile<32>& tile, std::uint8_t* const(&out)[lanes]) {
        F most = zero();
        for (int i = 0; i < 32; ++i) most = max(most, abs(tile.x[i]));
        const F d = most / set(127.F);
        const F inverse = inverse_or_zero(d);
        I words[8];
        for (int i = 0; i < 8; ++i) {
            I q[4];
            for (int k = 0; k < 4; ++k) q[k] = byte(round_away(tile.x[4 * i + k] * inverse));
            words[i] = word(q[0], q[1], q[2], q[3]);
        }
        store_fp16(to_fp16(d), out, 0);
        store_words(words, out, 2);
        return fits_fp16(to_fp16(d));
    });
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
