// Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL: blocks of 32 weights with d, of which a super-block has eight. Layouts:
// ggml-common.h.
#pragma once

#include "block.h"
#include "iq4_xs.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// d, a min if `HasMin`, 32 fifth bits if `Bits` is 5, 16 bytes of nibbles. Without a min, half of the range is
// negative.
template <Format Name, int Bits, bool HasMin>
struct NibblesLayout {
    static constexpr Format format = Name;
    static constexpr int values_per_scale = 32;
    static constexpr bool has_mins = HasMin;

    static void decode(const std::uint8_t* p, Block& block) {
        constexpr int offset = HasMin ? 0 : 1 << (Bits - 1);
        for (int i = 0; i < 8; ++i) {
            block.scales[i] = fp16_at(p);
            p += 2;
            if (HasMin) {
                block.mins[i] = -fp16_at(p);
                p += 2;
            }
            std::uint32_t fifth = 0;
            if (Bits == 5) {
                fifth = long_word_at(p);
                p += 4;
            }
            std::int8_t* const q = block.q + 32 * i;
            for (int j = 0; j < 16; ++j) {
                const int low = static_cast<int>(fifth >> j & 1) << 4, high = static_cast<int>(fifth >> (j + 16) & 1)
                                                                              << 4;
                q[j] = static_cast<std::int8_t>(((p[j] & 15) | low) - offset);
                q[16 + j] = static_cast<std::int8_t>((p[j] >> 4 | high) - offset);
            }
            p += 16;
        }
    }
};
using Q40 = NibblesLayout<Format::q4_0, 4, false>;
using Q41 = NibblesLayout<Format::q4_1, 4, true>;
using Q50 = NibblesLayout<Format::q5_0, 5, false>;
using Q51 = NibblesLayout<Format::q5_1, 5, true>;

struct IQ4NL {
    static constexpr Format format = Format::iq4_nl;
    static constexpr int values_per_scale = 32;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        for (int i = 0; i < 8; ++i, p += 18) {
            block.scales[i] = fp16_at(p);
            look_up_nibbles(p + 2, iq4_levels, block.q + 32 * i);
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
