// Pairs of 16-bit integers in 32-bit lanes: AVX-512 BW, with VNNI where ATTENTION_VNNI is defined.
#pragma once

#if !defined(SIMD_TARGET)
#define SIMD_TARGET avx512
#define SIMD_VECTOR "vector_avx512.h"
#endif

#include <immintrin.h>
#include <cstdint>

#include "../simd/vector.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr bool has_pairs = true;
inline constexpr int tile_rows = 12;  // of the result, in registers

#if defined(__GNUC__)
// __m512i is a vector of 64-bit integers to GCC, which moves sums of that type around in every step.
using Sums = std::int32_t __attribute__((vector_size(64)));
#else
using Sums = __m512i;
#endif

inline I rounded(F a) { return {_mm512_cvtps_epi32(a.v)}; }
inline Sums no_sums() { return (Sums)_mm512_setzero_si512(); }
inline F to_floats(Sums sums) { return {_mm512_cvtepi32_ps((__m512i)sums)}; }
inline Sums dot(Sums sums, F a, F b) {
    const __m512i pairs = _mm512_castps_si512(a.v), others = _mm512_castps_si512(b.v);
#if defined(ATTENTION_VNNI)
    return (Sums)_mm512_dpwssd_epi32((__m512i)sums, pairs, others);
#else
    return (Sums)_mm512_add_epi32((__m512i)sums, _mm512_madd_epi16(pairs, others));
#endif
}

// Words: 2 * lanes integers of 16 bits, in an F as all that is moved about.

inline F words(__m512i a) { return {_mm512_castsi512_ps(a)}; }
inline __m512i integers(F a) { return _mm512_castps_si512(a.v); }

// 2 * lanes bytes times 256.
inline F high_bytes(const std::uint8_t* p) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return words(_mm512_slli_epi16(_mm512_cvtepi8_epi16(bytes), 8));
}
// Of 16 bytes, whose low nibbles are the first 16 of 32 numbers: 2 * lanes of these from the i-th on, minus 8, times
// 4096.
inline F high_nibbles(const std::uint8_t* p, std::int64_t) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m256i low = _mm256_slli_epi16(_mm256_cvtepu8_epi16(packed), 12);
    const __m256i high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_srli_epi16(packed, 4)), 12);
    const __m512i all = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    return words(_mm512_xor_si512(all, _mm512_set1_epi16(-32768)));  // minus 8 * 4096, modulo 2^16
}
// a times b, divided by 2^15 and rounded.
inline F multiply_high(F a, F b) { return words(_mm512_mulhrs_epi16(integers(a), integers(b))); }
// The integers nearest to a and then b.
inline F pack(F a, F b) {
    const __m512i mixed = _mm512_packs_epi32(_mm512_cvtps_epi32(a.v), _mm512_cvtps_epi32(b.v));
    return words(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), mixed));
}
// Each word of a beside that of b, in an order that is fast. in_order: the first and the last lanes of what was
// computed in this order.
inline void interleave(F a, F b, F (&pairs)[2]) {
    pairs[0] = words(_mm512_unpacklo_epi16(integers(a), integers(b)));
    pairs[1] = words(_mm512_unpackhi_epi16(integers(a), integers(b)));
}
inline void in_order(F (&x)[2]) {
    const __m512i low = integers(x[0]), high = integers(x[1]);
    x[0] = words(_mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high));
    x[1] = words(_mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high));
}
// Of some 16-bit floats, a multiple of 2 * lanes: the largest without its sign. Their order is that of integers.
inline std::uint16_t largest_magnitude(const std::uint16_t* x, std::int64_t size) {
    __m512i most = _mm512_setzero_si512();
    for (std::int64_t i = 0; i < size; i += 2 * lanes) {
        most = _mm512_max_epu16(_mm512_and_si512(_mm512_loadu_si512(x + i), _mm512_set1_epi16(0x7FFF)), most);
    }
    const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
    const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1)));
    return static_cast<std::uint16_t>(~_mm_extract_epi16(least, 0));
}

}  // namespace
}  // namespace attention::SIMD_TARGET
