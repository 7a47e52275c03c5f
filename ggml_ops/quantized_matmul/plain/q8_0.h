// Q8_0: d and 32 signed bytes, eight times in a super-block. Layout: ggml-common.h.
#pragma once

#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Q80 {
    static constexpr Format format = Format::q8_0;
    static constexpr int values_per_scale = 32;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        for (int i = 0; i < 8; ++i, p += 34) {
            block.scales[i] = fp16_at(p);
            std::memcpy(block.q + 32 * i, p + 2, 32);
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
