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

}  // namespace
}  // namespace attention::SIMD_TARGET
