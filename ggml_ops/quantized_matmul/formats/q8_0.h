// Q8_0: d and 32 signed bytes, eight times in a super-block. Layout: ggml-common.h.
#pragma once

#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Q80 {
    static constexpr Format format = Format::q8_0;
    static constexpr int values_per_scale = 32;
    static constexpr bool narrow = false;
    static constexpr int offset = wide_offset;
    static constexpr bool has_mins = false;

    const std::uint8_t* p;

    explicit Q80(const std::uint8_t* block) : p(block) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        gather_blocks(p + 2 + 4 * 34 * Half, 34, q);
        for (B& bytes_of_weights : q) bytes_of_weights = make_wide(bytes_of_weights);
    }
    F scales() const { return eight_fp16_at<34>(p); }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
