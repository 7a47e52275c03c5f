// Pairs of 16-bit integers in 32-bit lanes: AVX2, with AVX-VNNI where ATTENTION_VNNI is defined.
#pragma once

#if !defined(SIMD_TARGET)
#define SIMD_TARGET avx2
#define SIMD_VECTOR "vector_avx2.h"
#endif

#include <immintrin.h>
#include <cstdint>

#include "../simd/vector.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr bool has_pairs = true;
inline constexpr int tile_rows = 6;  // of the result, in registers

#if defined(__GNUC__)
// __m256i is a vector of 64-bit integers to GCC, which moves sums of that type around in every step.
using Sums = std::int32_t __attribute__((vector_size(32)));
#else
using Sums = __m256i;
#endif

inline I rounded(F a) { return {_mm256_cvtps_epi32(a.v)}; }
inline Sums no_sums() { return (Sums)_mm256_setzero_si256(); }
inline F to_floats(Sums sums) { return {_mm256_cvtepi32_ps((__m256i)sums)}; }
inline Sums dot(Sums sums, F a, F b) {
    const __m256i pairs = _mm256_castps_si256(a.v), others = _mm256_castps_si256(b.v);
#if defined(ATTENTION_VNNI)
    return (Sums)_mm256_dpwssd_avx_epi32((__m256i)sums, pairs, others);
#else
    return (Sums)_mm256_add_epi32((__m256i)sums, _mm256_madd_epi16(pairs, others));
#endif
}

// Words: 2 * lanes integers of 16 bits, in an F as all that is moved about. See pairs_avx512.h.

inline F words(__m256i a) { return {_mm256_castsi256_ps(a)}; }
inline __m256i integers(F a) { return _mm256_castps_si256(a.v); }

inline F high_bytes(const std::uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return words(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 8));
}
inline F high_nibbles(const std::uint8_t* p, std::int64_t i) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i low = i < 16 ? packed : _mm_srli_epi16(packed, 4);
    return words(_mm256_xor_si256(_mm256_slli_epi16(_mm256_cvtepu8_epi16(low), 12), _mm256_set1_epi16(-32768)));
}
inline F multiply_high(F a, F b) { return words(_mm256_mulhrs_epi16(integers(a), integers(b))); }
inline F pack(F a, F b) {
    const __m256i mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(a.v), _mm256_cvtps_epi32(b.v));
    return words(_mm256_permute4x64_epi64(mixed, 0xD8));
}
inline void interleave(F a, F b, F (&pairs)[2]) {
    pairs[0] = words(_mm256_unpacklo_epi16(integers(a), integers(b)));
    pairs[1] = words(_mm256_unpackhi_epi16(integers(a), integers(b)));
}
inline void in_order(F (&x)[2]) {
    const __m256i low = integers(x[0]), high = integers(x[1]);
    x[0] = words(_mm256_permute2x128_si256(low, high, 0x20));
    x[1] = words(_mm256_permute2x128_si256(low, high, 0x31));
}
inline std::uint16_t largest_magnitude(const std::uint16_t* x, std::int64_t size) {
    __m256i most = _mm256_setzero_si256();
    for (std::int64_t i = 0; i < size; i += 2 * lanes) {
        const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
        most = _mm256_max_epu16(_mm256_and_si256(some, _mm256_set1_epi16(0x7FFF)), most);
    }
    const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1)));
    return static_cast<std::uint16_t>(~_mm_extract_epi16(least, 0));
}

}  // namespace
}  // namespace attention::SIMD_TARGET
