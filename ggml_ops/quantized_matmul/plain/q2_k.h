// Q2_K: 16 bytes of scales and mins, 64 bytes, d, dmin. Layout: ggml-common.h.
#pragma once

#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Q2K {
    static constexpr Format format = Format::q2_k;
    static constexpr int values_per_scale = 16;
    static constexpr bool has_mins = true;

    static void decode(const std::uint8_t* p, Block& block) {
        const float d = fp16_at(p + 80), dmin = fp16_at(p + 82);
        for (int i = 0; i < 16; ++i) {
            block.scales[i] = d * static_cast<float>(p[i] & 15);
            block.mins[i] = dmin * static_cast<float>(p[i] >> 4);
        }
        for (int i = 0; i < 8; ++i) {
            const std::uint8_t* const two_bits = p + 16 + i / 4 * 32;
            const int shift = i % 4 * 2;
            for (int j = 0; j < 32; ++j) block.q[32 * i + j] = static_cast<std::int8_t>(two_bits[j] >> shift & 3);
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
