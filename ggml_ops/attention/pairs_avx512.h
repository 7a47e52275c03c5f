// Pairs of 16-bit integers in 32-bit lanes: AVX-512 BW, with VNNI where ATTENTION_VNNI is defined.
#pragma once

#if !defined(SIMD_TARGET)
#define SIMD_TARGET avx512
#define SIMD_VECTOR "vector_avx512.h"
#endif

#include <immintrin.h>

#include "../simd/vector.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr bool has_pairs = true;
inline constexpr int tile_rows = 12;  // of the result, in registers

inline I rounded(F a) { return {_mm512_cvtps_epi32(a.v)}; }
inline I dot(I sum, I a, I b) {
#if defined(ATTENTION_VNNI)
    return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)};
#else
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(a.v, b.v))};
#endif
}

}  // namespace
}  // namespace attention::SIMD_TARGET
