// Q2_K: 16 scales and mins of four bits each, 64 bytes, d, dmin. Layout: ggml-common.h.
#pragma once

#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Q2K {
    static constexpr Format format = Format::q2_k;
    static constexpr int values_per_scale = 16;
    static constexpr bool narrow = true;
    static constexpr int most = 3;
    static constexpr int offset = 0;
    static constexpr bool has_mins = true;
    static constexpr int values_per_min = 16;
    static constexpr bool folds = sums_in_lanes;  // 3 * 15 fits six bits
    static constexpr int folded_offset = 0;

    const std::uint8_t* p;

    explicit Q2K(const std::uint8_t* block) : p(block) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        unpack_two_bits(p + 16 + 32 * Half, q);
    }
    template <int Half>
    void unpack_folded(B (&q)[vectors]) const {
        unpack<Half>(q);
        const __m128i scales = integer_scales();
        for (int i = 0; i < vectors; ++i) {
            q[i] = look_up(multiples<0, 1, 2, 3, 0, 1, 2, 3>(repeat_in_lanes(scales, Half * vectors + i)), q[i]);
        }
    }
    __m128i integer_scales() const { return _mm_and_si128(load_16(p), _mm_set1_epi8(15)); }
    float factor() const { return fp16_at(p + 80); }
    float folded_factor() const { return factor(); }
    __m128i integer_mins() const { return _mm_and_si128(_mm_srli_epi16(load_16(p), 4), _mm_set1_epi8(15)); }
    float min_factor() const { return fp16_at(p + 82); }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
