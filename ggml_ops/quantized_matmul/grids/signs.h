// The signs of IQ2_XXS, IQ2_XS and IQ3_XXS: seven of eight are stored, and the number of negative ones is even.
#pragma once

#include <immintrin.h>

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Bytes of seven bits: bit 7 becomes their parity.
inline __m256i eighth_sign(__m256i seven) {
    const __m256i odd = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
    const __m256i halves = _mm256_xor_si256(seven, _mm256_srli_epi16(seven, 4));
    return _mm256_or_si256(seven, _mm256_shuffle_epi8(odd, _mm256_and_si256(halves, _mm256_set1_epi8(15))));
}

// Words of 32 bits with four times seven signs in the low 28: four bytes of eight signs.
inline __m256i eight_signs_of_seven(__m256i words) {
    const auto part = [words](int l) {
        return _mm256_and_si256(_mm256_slli_epi32(words, l), _mm256_set1_epi32(0x7F << 8 * l));
    };
    return eighth_sign(_mm256_or_si256(_mm256_or_si256(part(0), part(1)), _mm256_or_si256(part(2), part(3))));
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
