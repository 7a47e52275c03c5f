// Eight lanes: AVX2 and F16C. See vector.h.
#pragma once

#include <immintrin.h>
#include <cstdint>

#include "scalar.h"

namespace simd::avx2 {
namespace {

inline constexpr int lanes = 8;

struct F {
    __m256 v;
};
struct I {
    __m256i v;
};
struct M {
    __m256 v;  // all ones or all zeros in each lane
};

inline F set(float a) { return {_mm256_set1_ps(a)}; }
inline I set(std::int32_t a) { return {_mm256_set1_epi32(a)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline F load(const BFloat16* p) {
    const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16))};
}
inline F load(const Float16* p) { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline I load(const std::int8_t* p) {
    return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
}
inline void store(float* p, F a) { _mm256_storeu_ps(p, a.v); }
inline void store(std::int32_t* p, I a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }
inline void store_to_memory(float* p, F a) { _mm256_stream_ps(p, a.v); }
inline void finish_stores_to_memory() { _mm_sfence(); }

inline F operator+(F a, F b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F operator-(F a) { return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.F))}; }
inline F sqrt(F a) { return {_mm256_sqrt_ps(a.v)}; }
inline F abs(F a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.F), a.v)}; }
inline F min(F a, F b) { return {_mm256_min_ps(a.v, b.v)}; }
inline F max(F a, F b) { return {_mm256_max_ps(a.v, b.v)}; }

inline M operator<(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline M operator>(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline M operator==(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline M operator&(M a, M b) { return {_mm256_and_ps(a.v, b.v)}; }
inline M operator|(M a, M b) { return {_mm256_or_ps(a.v, b.v)}; }
inline M operator!(M a) { return {_mm256_xor_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))}; }
inline M operator!=(I a, I b) { return !M{_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, b.v))}; }
inline bool any(M a) { return _mm256_movemask_ps(a.v) != 0; }
inline F select(M m, F a, F b) { return {_mm256_blendv_ps(b.v, a.v, m.v)}; }
inline I select(M m, I a, I b) {
    return {_mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(b.v), _mm256_castsi256_ps(a.v), m.v))};
}

inline I operator+(I a, I b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline I operator-(I a, I b) { return {_mm256_sub_epi32(a.v, b.v)}; }
inline I operator&(I a, I b) { return {_mm256_and_si256(a.v, b.v)}; }
inline I operator|(I a, I b) { return {_mm256_or_si256(a.v, b.v)}; }
inline I min(I a, I b) { return {_mm256_min_epi32(a.v, b.v)}; }
inline I max(I a, I b) { return {_mm256_max_epi32(a.v, b.v)}; }
template <int N>
I shift_left(I a) {
    return {_mm256_slli_epi32(a.v, N)};
}
template <int N>
I shift_right(I a) {
    return {_mm256_srli_epi32(a.v, N)};
}
template <int N>
I shift_right_signed(I a) {
    return {_mm256_srai_epi32(a.v, N)};
}

inline I bits(F a) { return {_mm256_castps_si256(a.v)}; }
inline F from_bits(I a) { return {_mm256_castsi256_ps(a.v)}; }
inline F to_float(I a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline I truncate(F a) { return {_mm256_cvttps_epi32(a.v)}; }
inline F round_even(F a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline I to_fp16(F a) {
    return {_mm256_cvtepu16_epi32(_mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
}
inline F from_fp16(I a) {
    const __m256i pairs = _mm256_packus_epi32(a.v, a.v);  // 0 1 2 3 0 1 2 3 | 4 5 6 7 4 5 6 7
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08)))};
}

inline void transpose(F (&r)[8]) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 4) {
        const __m256 a = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
        const __m256 b = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
        const __m256 c = _mm256_unpacklo_ps(r[i + 2].v, r[i + 3].v);
        const __m256 d = _mm256_unpackhi_ps(r[i + 2].v, r[i + 3].v);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xEE);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xEE);
    }
    for (int i = 0; i < 4; ++i) {
        r[i].v = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
        r[i + 4].v = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
}

// Only a gather could do it here, which is slower than a chain of comparisons.
inline constexpr bool has_look_up = false;
inline F look_up(const float (&t)[32], I) { return set(t[0]); }

// The sums of the elements of each of four vectors.
inline void sums(const F (&v)[4], float (&total)[4]) {
    const __m256 ab = _mm256_hadd_ps(v[0].v, v[1].v);
    const __m256 cd = _mm256_hadd_ps(v[2].v, v[3].v);
    const __m256 abcd = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(total, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}

// The largest element; none may be NaN.
inline float largest(F a) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

#if defined(__FMA__)
// a * b + c, rounded once.
inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F fused(F a, F b, F c) { return fma(a, b, c); }
#endif

}  // namespace
}  // namespace simd::avx2

namespace simd {
namespace isa = avx2;
}
