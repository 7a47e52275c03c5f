// Q4_K: d, dmin, 12 bytes of scales, 128 bytes. Q5_K: 32 bytes of fifth bits in between. Layouts: ggml-common.h.
#pragma once

#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Eight scales and eight mins of six bits in twelve bytes; see get_scale_min_k4 in ggml-quants.c.
struct SixBitScales {
    __m128i scales, mins;
};

inline SixBitScales unpack_scales(const std::uint8_t* p) {
    std::uint32_t w[3];
    std::memcpy(w, p, sizeof w);
    const auto join = [](std::uint32_t first, std::uint32_t low, std::uint32_t high) {
        const std::uint32_t second = (low & 0x0F0F0F0FU) | ((high >> 2) & 0x30303030U);
        return eight_bytes((first & 0x3F3F3F3FU) | std::uint64_t{second} << 32);
    };
    return {join(w[0], w[2], w[0]), join(w[1], w[2] >> 4, w[1])};
}

template <int Bits>
struct FourOrFiveBits {
    static constexpr Format format = Bits == 5 ? Format::q5_k : Format::q4_k;
    static constexpr int values_per_scale = 32;
    static constexpr bool narrow = true;
    static constexpr int most = (1 << Bits) - 1;
    static constexpr int offset = 0;
    static constexpr bool has_mins = true;
    static constexpr int values_per_min = 32;
    static constexpr bool folds = false;

    const std::uint8_t* p;
    SixBitScales six_bit;

    explicit FourOrFiveBits(const std::uint8_t* block) : p(block), six_bit(unpack_scales(block + 4)) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        unpack_nibbles(p + super_block_bytes<FourOrFiveBits>() - 128 + 64 * Half, q);
        if constexpr (Bits == 5) add_fifth_bit<Half>(p + 16, q);
    }
    __m128i integer_scales() const { return six_bit.scales; }
    float factor() const { return fp16_at(p); }
    __m128i integer_mins() const { return six_bit.mins; }
    float min_factor() const { return fp16_at(p + 2); }
};
using Q4K = FourOrFiveBits<4>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
