// The low two bits of 256 quants as Q2_K and Q3_K hold them, 16 words: byte l of each 128 weights has those of
// l, l + 32, l + 64 and l + 96.
#pragma once

#include "tile.h"

namespace kquants::SIMD_TARGET {
namespace {

inline void pack_two_bits(const I* l, I* words) {
    for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 32; i += 4) {
            I quarter[4];
            for (int k = 0; k < 4; ++k) {
                const I* q = l + 128 * half + 32 * k + i;
                quarter[k] = word(q[0], q[1], q[2], q[3]) & set(0x03030303);
            }
            words[8 * half + i / 4] =
                quarter[0] | shift_left<2>(quarter[1]) | shift_left<4>(quarter[2]) | shift_left<6>(quarter[3]);
        }
    }
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
