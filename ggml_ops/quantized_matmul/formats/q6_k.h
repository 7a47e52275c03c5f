// Q6_K: 128 bytes of low bits, 64 of high bits, 16 signed scales, d. Layout: ggml-common.h.
#pragma once

#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Q6K {
    static constexpr Format format = Format::q6_k;
    static constexpr int values_per_scale = 16;
    static constexpr bool narrow = true;
    static constexpr int most = 63;
    static constexpr int offset = 32;
    static constexpr bool has_mins = false;
    static constexpr bool folds = false;

    const std::uint8_t* p;

    explicit Q6K(const std::uint8_t* block) : p(block) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        unpack_six_bits(p + 64 * Half, p + 128 + 32 * Half, q);
    }
    __m128i integer_scales() const { return load_16(p + 192); }
    float factor() const { return fp16_at(p + 208); }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
