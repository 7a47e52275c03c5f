// Q3_K: 32 bytes of third bits, 64 bytes of the other two, 12 bytes of scales above -32, d. Layout: ggml-common.h.
#pragma once

#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Q3K {
    static constexpr Format format = Format::q3_k;
    static constexpr int values_per_scale = 16;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        const std::uint8_t* const scales = p + 96;
        const float d = fp16_at(p + 108);
        for (int i = 0; i < 16; ++i) {
            const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
            const int high = scales[8 + i % 4] >> (i / 4 * 2) & 3;
            block.scales[i] = d * static_cast<float>((low | high << 4) - 32);
        }
        for (int i = 0; i < 8; ++i) {
            const std::uint8_t* const two_bits = p + 32 + i / 4 * 32;
            const int shift = i % 4 * 2;
            for (int j = 0; j < 32; ++j) {
                const int third = p[j] >> i & 1;
                block.q[32 * i + j] = static_cast<std::int8_t>((two_bits[j] >> shift & 3) + 4 * third - 4);
            }
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
