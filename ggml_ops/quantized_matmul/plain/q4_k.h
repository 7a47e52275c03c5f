// Q4_K: d, dmin, 12 bytes of scales, 128 bytes. Q5_K: 32 bytes of fifth bits in between. Layouts: ggml-common.h.
#pragma once

#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Eight scales and eight mins of six bits in twelve bytes; see get_scale_min_k4 in ggml-quants.c.
inline void decode_six_bits(const std::uint8_t* p, float d, float dmin, Block& block) {
    for (int i = 0; i < 4; ++i) {
        block.scales[i] = d * static_cast<float>(p[i] & 63);
        block.mins[i] = dmin * static_cast<float>(p[4 + i] & 63);
        block.scales[4 + i] = d * static_cast<float>((p[8 + i] & 15) | (p[i] >> 6) << 4);
        block.mins[4 + i] = dmin * static_cast<float>(p[8 + i] >> 4 | (p[4 + i] >> 6) << 4);
    }
}

template <int Bits>
struct FourOrFiveBitsLayout {
    static constexpr Format format = Bits == 5 ? Format::q5_k : Format::q4_k;
    static constexpr int values_per_scale = 32;
    static constexpr bool has_mins = true;

    static void decode(const std::uint8_t* p, Block& block) {
        decode_six_bits(p + 4, fp16_at(p), fp16_at(p + 2), block);
        const std::uint8_t* const fifth = p + 16;
        const std::uint8_t* nibbles = p + (Bits == 5 ? 48 : 16);
        for (int i = 0; i < 8; i += 2, nibbles += 32) {
            std::int8_t* const q = block.q + 32 * i;
            for (int j = 0; j < 32; ++j) {
                const int low = Bits == 5 ? (fifth[j] >> i & 1) << 4 : 0;
                const int high = Bits == 5 ? (fifth[j] >> (i + 1) & 1) << 4 : 0;
                q[j] = static_cast<std::int8_t>((nibbles[j] & 15) | low);
                q[32 + j] = static_cast<std::int8_t>(nibbles[j] >> 4 | high);
            }
        }
    }
};
using Q4K = FourOrFiveBitsLayout<4>;
using Q5K = FourOrFiveBitsLayout<5>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
