// Sixteen lanes: AVX-512 F, BW, DQ, VL. See vector.h.
#pragma once

#include <immintrin.h>
#include <cstdint>

#include "scalar.h"

namespace simd::avx512 {
namespace {

inline constexpr int lanes = 16;

struct F {
    __m512 v;
};
struct I {
    __m512i v;
};
struct M {
    __mmask16 v;
};

inline F set(float a) { return {_mm512_set1_ps(a)}; }
inline I set(std::int32_t a) { return {_mm512_set1_epi32(a)}; }
inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F load(const BFloat16* p) {
    const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16))};
}
inline F load(const Float16* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline I load(const std::int8_t* p) {
    return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline void store(std::int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }
inline void store_to_memory(float* p, F a) { _mm512_stream_ps(p, a.v); }
inline void finish_stores_to_memory() { _mm_sfence(); }

inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F operator-(F a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.F))}; }
inline F sqrt(F a) { return {_mm512_sqrt_ps(a.v)}; }
inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }

inline M operator<(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline M operator>(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline M operator==(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline M operator!=(I a, I b) { return {_mm512_cmpneq_epi32_mask(a.v, b.v)}; }
inline M operator&(M a, M b) { return {static_cast<__mmask16>(a.v & b.v)}; }
inline M operator|(M a, M b) { return {static_cast<__mmask16>(a.v | b.v)}; }
inline M operator!(M a) { return {static_cast<__mmask16>(~a.v)}; }
inline bool any(M a) { return a.v != 0; }
inline F select(M m, F a, F b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
inline I select(M m, I a, I b) { return {_mm512_mask_blend_epi32(m.v, b.v, a.v)}; }

inline I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I operator-(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I operator&(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I operator|(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
inline I min(I a, I b) { return {_mm512_min_epi32(a.v, b.v)}; }
inline I max(I a, I b) { return {_mm512_max_epi32(a.v, b.v)}; }
template <int N>
I shift_left(I a) {
    return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
I shift_right(I a) {
    return {_mm512_srli_epi32(a.v, N)};
}
template <int N>
I shift_right_signed(I a) {
    return {_mm512_srai_epi32(a.v, N)};
}

inline I bits(F a) { return {_mm512_castps_si512(a.v)}; }
inline F from_bits(I a) { return {_mm512_castsi512_ps(a.v)}; }
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I truncate(F a) { return {_mm512_cvttps_epi32(a.v)}; }
inline F round_even(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline I to_fp16(F a) {
    return {_mm512_cvtepu16_epi32(_mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))};
}
inline F from_fp16(I a) { return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a.v))}; }

inline void transpose(F (&r)[16]) {
    __m512 t[16];
    for (int i = 0; i < 16; i += 4) {
        const __m512 a = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
        const __m512 b = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
        const __m512 c = _mm512_unpacklo_ps(r[i + 2].v, r[i + 3].v);
        const __m512 d = _mm512_unpackhi_ps(r[i + 2].v, r[i + 3].v);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xEE);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xEE);
    }
    for (int i = 0; i < 4; ++i) {
        const __m512 a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
        const __m512 b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xDD);
        const __m512 c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xDD);
        r[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
        r[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
        r[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xDD);
        r[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xDD);
    }
}

// t[index], for an index in the low five bits; faster here than a chain of comparisons.
inline constexpr bool has_look_up = true;
inline F look_up(const float (&t)[32], I index) {
    return {_mm512_permutex2var_ps(_mm512_loadu_ps(t), index.v, _mm512_loadu_ps(t + 16))};
}

// a * b + c, rounded once.
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F fused(F a, F b, F c) { return fma(a, b, c); }

// The sums of the elements of each of four vectors.
inline void sums(const F (&v)[4], float (&total)[4]) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0].v, v[1].v), _mm512_unpackhi_ps(v[0].v, v[1].v));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2].v, v[3].v), _mm512_unpackhi_ps(v[2].v, v[3].v));
    const __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(total, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

// The largest element; none may be NaN.
inline float largest(F a) { return _mm512_reduce_max_ps(a.v); }

}  // namespace
}  // namespace simd::avx512

namespace simd {
namespace isa = avx512;
}
