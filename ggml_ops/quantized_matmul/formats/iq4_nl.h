// IQ4_NL: d and 16 bytes of indices into a table, eight times in a super-block. Layout: ggml-common.h.
#pragma once

#include "iq4_table.h"
#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct IQ4NL {
    static constexpr Format format = Format::iq4_nl;
    static constexpr int values_per_scale = 32;
    static constexpr bool narrow = false;
    static constexpr int offset = wide_offset;
    static constexpr bool has_mins = false;

    const std::uint8_t* p;

    explicit IQ4NL(const std::uint8_t* block) : p(block) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        gather_nibbles<18>(p + 4 * 18 * Half + 2, q);
        for (B& bytes_of_weights : q) bytes_of_weights = look_up(repeat_lane(iq4_table()), bytes_of_weights);
    }
    F scales() const { return eight_fp16_at<18>(p); }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
