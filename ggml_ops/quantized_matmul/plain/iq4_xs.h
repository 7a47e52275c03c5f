// IQ4_XS: d, 8 x 2 high bits and 8 x 4 low bits of scales above -32, 128 bytes of indices into a table.
// Layout: ggml-common.h.
#pragma once

#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// kvalues_iq4nl in ggml-common.h.
inline constexpr std::int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

struct IQ4XS {
    static constexpr Format format = Format::iq4_xs;
    static constexpr int values_per_scale = 32;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        const float d = fp16_at(p);
        const int high = word_at(p + 2);
        for (int i = 0; i < 8; ++i) {
            const int scale = (p[4 + i / 2] >> (i % 2 * 4) & 15) | (high >> 2 * i & 3) << 4;
            block.scales[i] = d * static_cast<float>(scale - 32);
            look_up_nibbles(p + 8 + 16 * i, iq4_levels, block.q + 32 * i);
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
