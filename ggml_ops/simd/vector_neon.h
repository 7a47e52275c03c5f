// Four lanes: NEON of AArch64. See vector.h.
// min and max are compare and select, because fmin and fmax order the two zeros and ggml's comparisons do not.
#pragma once

#include <arm_neon.h>
#include <cstdint>
#include <cstring>
#include <limits>

#include "scalar.h"

namespace simd::neon {
namespace {

inline constexpr int lanes = 4;

struct F {
    float32x4_t v;
};
struct I {
    int32x4_t v;
};
struct M {
    uint32x4_t v;
};

inline F set(float a) { return {vdupq_n_f32(a)}; }
inline I set(std::int32_t a) { return {vdupq_n_s32(a)}; }
inline F load(const float* p) { return {vld1q_f32(p)}; }
inline F load(const BFloat16* p) {
    return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p)), 16))};
}
inline F load(const Float16* p) {
    return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p))))};
}
inline I load(const std::int8_t* p) {
    std::int32_t four;
    std::memcpy(&four, p, sizeof four);
    return {vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)))))};
}
inline void store(float* p, F a) { vst1q_f32(p, a.v); }
inline void store(std::int32_t* p, I a) { vst1q_s32(p, a.v); }
inline void store_to_memory(float* p, F a) { store(p, a); }
inline void finish_stores_to_memory() {}

inline F operator+(F a, F b) { return {vaddq_f32(a.v, b.v)}; }
inline F operator-(F a, F b) { return {vsubq_f32(a.v, b.v)}; }
inline F operator*(F a, F b) { return {vmulq_f32(a.v, b.v)}; }
inline F operator/(F a, F b) { return {vdivq_f32(a.v, b.v)}; }
inline F operator-(F a) { return {vnegq_f32(a.v)}; }
inline F sqrt(F a) { return {vsqrtq_f32(a.v)}; }
inline F abs(F a) { return {vabsq_f32(a.v)}; }

inline M operator<(F a, F b) { return {vcltq_f32(a.v, b.v)}; }
inline M operator>(F a, F b) { return {vcgtq_f32(a.v, b.v)}; }
inline M operator==(F a, F b) { return {vceqq_f32(a.v, b.v)}; }
inline M operator!=(I a, I b) { return {vmvnq_u32(vceqq_s32(a.v, b.v))}; }
inline M operator&(M a, M b) { return {vandq_u32(a.v, b.v)}; }
inline M operator|(M a, M b) { return {vorrq_u32(a.v, b.v)}; }
inline M operator!(M a) { return {vmvnq_u32(a.v)}; }
inline bool any(M a) { return vmaxvq_u32(a.v) != 0; }
inline F select(M m, F a, F b) { return {vbslq_f32(m.v, a.v, b.v)}; }
inline I select(M m, I a, I b) { return {vbslq_s32(m.v, a.v, b.v)}; }
inline F min(F a, F b) { return select(a < b, a, b); }
inline F max(F a, F b) { return select(a > b, a, b); }

inline I operator+(I a, I b) { return {vaddq_s32(a.v, b.v)}; }
inline I operator-(I a, I b) { return {vsubq_s32(a.v, b.v)}; }
inline I operator&(I a, I b) { return {vandq_s32(a.v, b.v)}; }
inline I operator|(I a, I b) { return {vorrq_s32(a.v, b.v)}; }
inline I min(I a, I b) { return {vminq_s32(a.v, b.v)}; }
inline I max(I a, I b) { return {vmaxq_s32(a.v, b.v)}; }
template <int N>
I shift_left(I a) {
    return {vshlq_n_s32(a.v, N)};
}
template <int N>
I shift_right(I a) {
    if constexpr (N == 0) return a;  // vshrq_n has no shift by zero
    else return {vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.v), N))};
}
template <int N>
I shift_right_signed(I a) {
    if constexpr (N == 0) return a;
    else return {vshrq_n_s32(a.v, N)};
}

inline I bits(F a) { return {vreinterpretq_s32_f32(a.v)}; }
inline F from_bits(I a) { return {vreinterpretq_f32_s32(a.v)}; }
inline F to_float(I a) { return {vcvtq_f32_s32(a.v)}; }
inline I truncate(F a) {
    return select(abs(a) < set(2147483648.F), I{vcvtq_s32_f32(a.v)}, set(std::numeric_limits<std::int32_t>::min()));
}
inline F round_even(F a) { return {vrndnq_f32(a.v)}; }
inline I to_fp16(F a) { return {vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32(a.v))))}; }
inline F from_fp16(I a) { return {vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(vreinterpretq_u32_s32(a.v))))}; }

inline void transpose(F (&r)[4]) {
    const float32x4_t a = vtrn1q_f32(r[0].v, r[1].v);
    const float32x4_t b = vtrn2q_f32(r[0].v, r[1].v);
    const float32x4_t c = vtrn1q_f32(r[2].v, r[3].v);
    const float32x4_t d = vtrn2q_f32(r[2].v, r[3].v);
    r[0].v = vreinterpretq_f32_f64(vtrn1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(c)));
    r[1].v = vreinterpretq_f32_f64(vtrn1q_f64(vreinterpretq_f64_f32(b), vreinterpretq_f64_f32(d)));
    r[2].v = vreinterpretq_f32_f64(vtrn2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(c)));
    r[3].v = vreinterpretq_f32_f64(vtrn2q_f64(vreinterpretq_f64_f32(b), vreinterpretq_f64_f32(d)));
}

// Only a gather could do it here, which is slower than a chain of comparisons.
inline constexpr bool has_look_up = false;
inline F look_up(const float (&t)[32], I) { return set(t[0]); }

// a * b + c, rounded once.
inline F fma(F a, F b, F c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline F fused(F a, F b, F c) { return fma(a, b, c); }

// The sums of the elements of each of four vectors.
inline void sums(const F (&v)[4], float (&total)[4]) {
    vst1q_f32(total, vpaddq_f32(vpaddq_f32(v[0].v, v[1].v), vpaddq_f32(v[2].v, v[3].v)));
}

// The largest element; none may be NaN.
inline float largest(F a) { return vmaxvq_f32(a.v); }

}  // namespace
}  // namespace simd::neon

namespace simd {
namespace isa = neon;
}
