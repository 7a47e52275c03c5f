// Pairs of 16-bit integers in 32-bit lanes: AVX2, with AVX-VNNI where ATTENTION_VNNI is defined.
#pragma once

#if !defined(SIMD_TARGET)
#define SIMD_TARGET avx2
#define SIMD_VECTOR "vector_avx2.h"
#endif

#include <immintrin.h>

#include "../simd/vector.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr bool has_pairs = true;
inline constexpr int tile_rows = 6;  // of the result, in registers

inline I rounded(F a) { return {_mm256_cvtps_epi32(a.v)}; }
inline I dot(I sum, I a, I b) {
#if defined(ATTENTION_VNNI)
    return {_mm256_dpwssd_avx_epi32(sum.v, a.v, b.v)};
#else
    return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, b.v))};
#endif
}

}  // namespace
}  // namespace attention::SIMD_TARGET
