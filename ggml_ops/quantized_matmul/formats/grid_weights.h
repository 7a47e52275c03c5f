// What the IQ2 and IQ3 types share. Their weights are entries of a grid with signs, times scales of four bits; a scale
// s stands for 2 s + 1. The bytes are the grid's offset above the weights. A layout, in a header of each type, has
//   format, values_per_scale
//   offset               of its grid
//   unit                 what d is multiplied by, so that the scales are integers
//   read(p)              the entries and signs of a super-block; its unpack<Half>(q) gives bytes
//   scales(p)            one byte for `values_per_scale` weights
#pragma once

#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline __m128i load_8(const std::uint8_t* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }

// Two scales of each byte.
inline __m128i scales_of_nibbles(__m128i bytes) {
    const __m128i nibbles = _mm_and_si128(_mm_unpacklo_epi8(bytes, _mm_srli_epi16(bytes, 4)), _mm_set1_epi8(15));
    return _mm_or_si128(_mm_add_epi8(nibbles, nibbles), _mm_set1_epi8(1));
}

// The highest four bits of eight words.
inline __m128i scales_of_words(__m128i first, __m128i last) {
    const __m128i words = _mm_packs_epi32(_mm_srli_epi32(first, 27), _mm_srli_epi32(last, 27));
    return _mm_or_si128(_mm_packs_epi16(words, _mm_setzero_si128()), _mm_set_epi64x(0, 0x0101010101010101));
}

template <class Layout>
struct GridWeights {
    static constexpr Format format = Layout::format;
    static constexpr int values_per_scale = Layout::values_per_scale;
    static constexpr bool narrow = true;
    static constexpr int most = 2 * Layout::offset;
    static constexpr int offset = Layout::offset;
    static constexpr bool has_mins = false;
    static constexpr bool folds = false;

    float d;
    __m128i integers;
    decltype(Layout::read(nullptr)) entries;

    explicit GridWeights(const std::uint8_t* p)
        : d(fp16_at(p) * Layout::unit), integers(Layout::scales(p)), entries(Layout::read(p)) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        entries.template unpack<Half>(q);
    }
    __m128i integer_scales() const { return integers; }
    float factor() const { return d; }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
