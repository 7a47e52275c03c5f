// IQ2 and IQ3 with AVX-512: the entries are looked up in registers and unpacked from 16 bits.
#pragma once

#include <immintrin.h>
#include <cstdint>
#include <cstring>

#include "../bytes_avx512.h"
#include "entries_in_words.h"
#include "look_up_avx512.h"
#include "signs.h"
#include "tables.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

template <const auto& Grid>
B unpack_entries(__m512i entries, int i, std::uint64_t signs) {
    // An entry to all words that take bits from it, and these bits to the low end of their bytes.
    constexpr int words = Grid.weights / 2;
    const __m512i word = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13,
                                          12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i entry = _mm512_add_epi16(_mm512_srli_epi16(word, words == 4 ? 2 : 1),
                                           _mm512_set1_epi16(static_cast<short>(32 / words * i)));
    const __m512i place = _mm512_and_si512(word, _mm512_set1_epi16(words - 1));
    const __m512i shift = _mm512_slli_epi16(place, words == 4 ? 1 : 2);
    const __m512i codes = _mm512_and_si512(_mm512_srlv_epi16(_mm512_permutexvar_epi16(entry, entries), shift),
                                           _mm512_set1_epi8((1 << Grid.code_bits) - 1));
    const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(offset_values<Grid>.bytes));
    const __m512i values = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes);
    return negate<Grid>(values, signs);
}

inline __m512i words_at(const std::uint8_t* p) { return _mm512_cvtepu8_epi16(load_32(p)); }

inline Entries<grids::iq2_xxs> read_iq2_xxs(const std::uint8_t* p) {
    const __m512i both = _mm512_loadu_si512(p);
    const __m512i index = _mm512_cvtepu8_epi16(_mm512_cvtepi64_epi32(both));
    const __m256i signs = eight_signs_of_seven(_mm512_cvtepi64_epi32(_mm512_srli_epi64(both, 32)));
    return {{look_up<grids::iq2_xxs>(index)}, Signs(signs)};
}

inline Entries<grids::iq2_xs> read_iq2_xs(const std::uint8_t* p) {
    const __m512i words = _mm512_loadu_si512(p);
    const __m256i signs = eighth_sign(_mm512_cvtepi16_epi8(_mm512_srli_epi16(words, 9)));
    return {{look_up<grids::iq2_xs>(words)}, Signs(signs)};
}

inline Entries<grids::iq2_s> read_iq2_s(const std::uint8_t* p) {
    // Two bits of each entry, four entries to a byte: to bits 8 and 9.
    const __m128i bits = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 64)));
    const __m512i byte = _mm512_set_epi16(7, 7, 7, 7, 6, 6, 6, 6, 5, 5, 5, 5, 4, 4, 4, 4, 3, 3, 3, 3, 2, 2, 2, 2, 1, 1,
                                          1, 1, 0, 0, 0, 0);
    const __m512i four_times = _mm512_permutexvar_epi16(byte, _mm512_castsi128_si512(bits));
    const __m512i high = _mm512_sllv_epi16(four_times, _mm512_set1_epi64(0x0002000400060008));
    const __m512i index = _mm512_or_si512(words_at(p), _mm512_and_si512(high, _mm512_set1_epi16(0x300)));
    return {{look_up<grids::iq2_s>(index)}, Signs(p + 32)};
}

inline Entries<grids::iq3_xxs> read_iq3_xxs(const std::uint8_t* p) {
    const __m256i signs = eight_signs_of_seven(load_32(p + 64));
    return {{look_up<grids::iq3_xxs>(words_at(p)), look_up<grids::iq3_xxs>(words_at(p + 32))}, Signs(signs)};
}

inline Entries<grids::iq3_s> read_iq3_s(const std::uint8_t* p) {
    std::uint32_t ninth_bits[2];
    std::memcpy(ninth_bits, p + 64, sizeof ninth_bits);
    const auto entries = [&](int i) {
        const __m512i index = words_at(p + 32 * i);
        const __m512i low = look_up<grids::iq3_s, 0, 256>(index), high = look_up<grids::iq3_s, 256, 256>(index);
        return _mm512_mask_blend_epi16(ninth_bits[i], low, high);
    };
    return {{entries(0), entries(1)}, Signs(p + 72)};
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
