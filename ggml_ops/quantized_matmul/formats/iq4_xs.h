// IQ4_XS: d, 8 x 2 high bits and 8 x 4 low bits of scales above -32, 128 bytes of indices into a table.
// Layout: ggml-common.h.
#pragma once

#include "iq4_table.h"
#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct IQ4XS {
    static constexpr Format format = Format::iq4_xs;
    static constexpr int values_per_scale = 32;
    static constexpr bool narrow = false;
    static constexpr int offset = wide_offset;
    static constexpr bool has_mins = false;
    static constexpr bool folds = false;

    const std::uint8_t* p;

    explicit IQ4XS(const std::uint8_t* block) : p(block) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        look_up_nibbles(p + 8 + 64 * Half, iq4_table(), q);
    }
    __m128i integer_scales() const {
        std::uint16_t high;
        std::uint32_t low;
        std::memcpy(&high, p + 2, sizeof high);
        std::memcpy(&low, p + 4, sizeof low);
        const __m128i nibbles = _mm_cvtsi32_si128(static_cast<int>(low));
        const __m128i apart = _mm_and_si128(_mm_unpacklo_epi8(nibbles, _mm_srli_epi16(nibbles, 4)), _mm_set1_epi8(15));
        // Two bits of each: to a word of its own, up to bit 4.
        const __m128i words = _mm_mullo_epi16(_mm_set1_epi16(static_cast<short>(high)),
                                              _mm_setr_epi16(16384, 4096, 1024, 256, 64, 16, 4, 1));
        const __m128i two = _mm_slli_epi16(_mm_srli_epi16(words, 14), 4);
        const __m128i six = _mm_or_si128(apart, _mm_packus_epi16(two, _mm_setzero_si128()));
        return _mm_sub_epi8(six, _mm_set_epi64x(0, 0x2020202020202020));
    }
    float factor() const { return fp16_at(p); }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
