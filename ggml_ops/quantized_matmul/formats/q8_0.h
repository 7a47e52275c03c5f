// Q8_0: d and 32 signed bytes, eight times in a super-block. Layout: ggml-common.h.
#pragma once

#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Q80 {
    static constexpr Format format = Format::q8_0;
    static constexpr int values_per_scale = 32;
    static constexpr bool narrow = false;
    static constexpr bool has_mins = wide_is_unsigned;

    const std::uint8_t* p;

    explicit Q80(const std::uint8_t* block) : p(block) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        gather_blocks(p + 2 + 4 * 34 * Half, 34, q);
        for (B& bytes_of_weights : q) bytes_of_weights = make_wide(bytes_of_weights);
    }
    void scales(F (&s)[1]) const {
        std::uint16_t halves[8];
        for (int i = 0; i < 8; ++i) std::memcpy(halves + i, p + 34 * i, sizeof halves[i]);
        s[0] = eight_fp16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
    }
    void mins(F (&m)[1]) const {
        scales(m);
        m[0] = m[0] * set(128.F);
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
