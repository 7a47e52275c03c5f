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

}  // namespace
}  // namespace attention::SIMD_TARGET
