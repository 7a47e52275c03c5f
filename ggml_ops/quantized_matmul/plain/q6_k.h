// Q6_K: 128 bytes of low bits, 64 of high bits, 16 signed scales, d. Layout: ggml-common.h.
#pragma once

#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Q6K {
    static constexpr Format format = Format::q6_k;
    static constexpr int values_per_scale = 16;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        const float d = fp16_at(p + 208);
        for (int i = 0; i < 16; ++i) block.scales[i] = d * static_cast<float>(static_cast<std::int8_t>(p[192 + i]));
        for (int half = 0; half < 2; ++half) {
            const std::uint8_t* const low = p + 64 * half;
            const std::uint8_t* const high = p + 128 + 32 * half;
            std::int8_t* const q = block.q + static_cast<int>(super_block) / 2 * half;
            for (int j = 0; j < 32; ++j) {
                q[j] = static_cast<std::int8_t>(((low[j] & 15) | (high[j] & 3) << 4) - 32);
                q[32 + j] = static_cast<std::int8_t>(((low[32 + j] & 15) | (high[j] >> 2 & 3) << 4) - 32);
                q[64 + j] = static_cast<std::int8_t>((low[j] >> 4 | (high[j] >> 4 & 3) << 4) - 32);
                q[96 + j] = static_cast<std::int8_t>((low[32 + j] >> 4 | high[j] >> 6 << 4) - 32);
            }
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
