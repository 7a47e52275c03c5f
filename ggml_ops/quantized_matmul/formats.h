// The formats of the weights: how a super-block becomes bytes, scales and mins.
// Layouts: ggml-common.h.
//
//   weight = scale * byte - minimum          scale, minimum: one for `values_per_scale` weights
//
// `narrow` bytes are unsigned and have at most six bits, so that a sum of two products with a signed byte fits 16 bits.
// Others have eight and are signed or unsigned, whichever is faster on the target; if unsigned, their min corrects it.
#pragma once

#include <immintrin.h>
#include <cstdint>
#include <cstring>

#include "bytes.h"
#include "quantized_matmul.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline constexpr int half_block = super_block / 2;  // weights that are unpacked together
inline constexpr int vectors = half_block / width;  // of bytes

inline float fp16_at(const std::uint8_t* p) {
    std::uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

inline __m128i load_16(const std::uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

// A vector for 16 scales or mins, or two; behind eight of them there are zeros.
inline constexpr int vectors_for(int count) { return count > lanes ? 2 : 1; }

template <int Count>
void to_floats(__m128i integers_8_bit, float factor, F (&floats)[vectors_for(Count)]) {
    for (int i = 0; i < vectors_for(Count); ++i) {
        floats[i] = to_float(integers(integers_8_bit)) * set(factor);
        integers_8_bit = _mm_srli_si128(integers_8_bit, 8);
    }
}

// Eight scales and eight mins of six bits in twelve bytes; see get_scale_min_k4 in ggml-quants.c.
struct SixBitScales {
    __m128i scales, mins;
};

inline SixBitScales unpack_scales(const std::uint8_t* p) {
    std::uint32_t w[3];
    std::memcpy(w, p, sizeof w);
    const auto join = [](std::uint32_t first, std::uint32_t low, std::uint32_t high) {
        const std::uint32_t second = (low & 0x0F0F0F0FU) | ((high >> 2) & 0x30303030U);
        return _mm_cvtsi64_si128(static_cast<long long>((first & 0x3F3F3F3FU) | std::uint64_t{second} << 32));
    };
    return {join(w[0], w[2], w[0]), join(w[1], w[2] >> 4, w[1])};
}

// Q4_K: d, dmin, 12 bytes of scales, 128 bytes. Q5_K: 32 bytes of fifth bits in between.
template <int Bits>
struct FourOrFiveBits {
    static constexpr int bytes = Bits == 5 ? 176 : 144;
    static constexpr int values_per_scale = 32;
    static constexpr bool narrow = true;
    static constexpr bool column_scale_of_32 = false;
    static constexpr bool has_mins = true;

    template <int Half>
    static void unpack(const std::uint8_t* p, B (&q)[vectors]) {
        unpack_nibbles(p + bytes - 128 + 64 * Half, q);
        if constexpr (Bits == 5) add_fifth_bit<Half>(p + 16, q);
    }
    // The integer scales of 16 weights each, and what they are multiplied by.
    static __m128i scales_of_16(const std::uint8_t* p) {
        const __m128i scales = unpack_scales(p + 4).scales;
        return _mm_unpacklo_epi8(scales, scales);
    }
    static float factor(const std::uint8_t* p) { return fp16_at(p); }
    static void scales(const std::uint8_t* p, F (&s)[1]) { to_floats<8>(unpack_scales(p + 4).scales, fp16_at(p), s); }
    static void mins(const std::uint8_t* p, F (&m)[1]) { to_floats<8>(unpack_scales(p + 4).mins, fp16_at(p + 2), m); }
};
using Q4K = FourOrFiveBits<4>;
using Q5K = FourOrFiveBits<5>;

// Q6_K: 128 bytes of low bits, 64 of high bits, 16 signed scales, d. The bytes are 32 above the weights.
struct Q6K {
    static constexpr int bytes = 210;
    static constexpr int values_per_scale = 16;
    static constexpr bool narrow = true;
    static constexpr bool column_scale_of_32 = false;
    static constexpr bool has_mins = true;

    template <int Half>
    static void unpack(const std::uint8_t* p, B (&q)[vectors]) {
        unpack_six_bits(p + 64 * Half, p + 128 + 32 * Half, q);
    }
    static __m128i scales_of_16(const std::uint8_t* p) { return load_16(p + 192); }
    static float factor(const std::uint8_t* p) { return fp16_at(p + 208); }
    static void scales(const std::uint8_t* p, F (&s)[vectors_for(16)]) {
        to_floats<16>(load_16(p + 192), factor(p), s);
    }
    static void mins(const std::uint8_t* p, F (&m)[vectors_for(16)]) {
        to_floats<16>(load_16(p + 192), 32.F * factor(p), m);
    }
};

// IQ4_XS: d, 8 x 2 high bits and 8 x 4 low bits of scales above -32, 128 bytes of indices into a table.
struct IQ4XS {
    static constexpr int bytes = 136;
    static constexpr int values_per_scale = 32;
    static constexpr bool narrow = false;
    static constexpr bool column_scale_of_32 = false;
    static constexpr bool has_mins = wide_is_unsigned;

    template <int Half>
    static void unpack(const std::uint8_t* p, B (&q)[vectors]) {
        const __m128i table = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
        look_up_nibbles(p + 8 + 64 * Half, make_wide_128(table), q);
    }
    static __m128i scales_of_32(const std::uint8_t* p) {
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
    static float factor(const std::uint8_t* p) { return fp16_at(p); }
    static void scales(const std::uint8_t* p, F (&s)[1]) { to_floats<8>(scales_of_32(p), factor(p), s); }
    static void mins(const std::uint8_t* p, F (&m)[1]) { to_floats<8>(scales_of_32(p), 128.F * factor(p), m); }

private:
    static __m128i make_wide_128(__m128i a) { return wide_is_unsigned ? _mm_xor_si128(a, _mm_set1_epi8(-128)) : a; }
};

// Q8_0: d and 32 signed bytes, eight times in a super-block.
struct Q80 {
    static constexpr int bytes = 8 * 34;
    static constexpr int values_per_scale = 32;
    static constexpr bool narrow = false;
    static constexpr bool column_scale_of_32 = true;
    static constexpr bool has_mins = wide_is_unsigned;

    template <int Half>
    static void unpack(const std::uint8_t* p, B (&q)[vectors]) {
        gather_blocks(p + 2 + 4 * 34 * Half, 34, q);
        for (B& bytes_of_weights : q) bytes_of_weights = make_wide(bytes_of_weights);
    }
    static void scales(const std::uint8_t* p, F (&s)[1]) {
        std::uint16_t halves[8];
        for (int i = 0; i < 8; ++i) std::memcpy(halves + i, p + 34 * i, sizeof halves[i]);
        s[0] = eight_fp16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
    }
    static void mins(const std::uint8_t* p, F (&m)[1]) {
        scales(p, m);
        m[0] = m[0] * set(128.F);
    }
};

// Calls work(Format{}) for the format that the argument names.
template <class Work>
void for_format(Format format, const Work& work) {
    switch (format) {
        case Format::q4_k: return work(Q4K{});
        case Format::q5_k: return work(Q5K{});
        case Format::q6_k: return work(Q6K{});
        case Format::q8_0: return work(Q80{});
        case Format::iq4_xs: return work(IQ4XS{});
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
