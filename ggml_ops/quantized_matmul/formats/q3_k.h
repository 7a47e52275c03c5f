// Q3_K: 32 bytes of third bits, 64 bytes of two bits, 16 scales of six bits in 12 bytes, d. Layout: ggml-common.h.
#pragma once

#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Q3K {
    static constexpr Format format = Format::q3_k;
    static constexpr int values_per_scale = 16;
    static constexpr bool narrow = true;
    static constexpr int most = 7;
    static constexpr int offset = 4;
    static constexpr bool has_mins = false;
    static constexpr bool folds = sums_in_lanes;
    static constexpr int folded_offset = 128;

    const std::uint8_t* p;

    explicit Q3K(const std::uint8_t* block) : p(block) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        unpack_two_bits(p + 32 + 32 * Half, q);
        add_third_bit<Half>(p, q);
    }
    // Scales are -32 to 31, and bytes less their offset -4 to 3: one times the other, and -1, is -128 to 124, so that
    // 128 above them there is an unsigned byte.
    template <int Half>
    void unpack_folded(B (&q)[vectors]) const {
        unpack<Half>(q);
        const __m128i scales = integer_scales();
        for (int i = 0; i < vectors; ++i) {
            const B lanes_of_scales = repeat_in_lanes(scales, Half * vectors + i);
            q[i] = make_wide(look_up(multiples<4, 3, 2, 1, 0, -1, -2, -3>(lanes_of_scales), q[i]));
        }
    }
    // Four low bits of scales 0 to 7 and of 8 to 15 in eight bytes, then two high bits of four scales in each byte.
    __m128i integer_scales() const {
        std::uint64_t low;
        std::uint32_t high;
        std::memcpy(&low, p + 96, sizeof low);
        std::memcpy(&high, p + 104, sizeof high);
        constexpr std::uint64_t nibble = 0x0F0F0F0F0F0F0F0F, two_bits = 0x3030303030303030;
        const std::uint64_t high_64 = high;
        const std::uint64_t first = (low & nibble) | ((high_64 << 4 | high_64 << 34) & two_bits);
        const std::uint64_t second = (low >> 4 & nibble) | ((high_64 | high_64 << 30) & two_bits);
        const __m128i six_bits = _mm_unpacklo_epi64(eight_bytes(first), eight_bytes(second));
        return _mm_sub_epi8(six_bits, _mm_set1_epi8(32));
    }
    float factor() const { return fp16_at(p + 108); }
    float folded_factor() const { return -factor(); }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
