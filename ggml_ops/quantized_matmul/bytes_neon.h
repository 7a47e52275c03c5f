// 16 bytes: NEON of AArch64 with dot products of bytes (Armv8.2 dotprod).
#pragma once

#if !defined(SIMD_TARGET)
#define SIMD_TARGET neondot
#define SIMD_VECTOR "vector_neon.h"
#endif

#include <arm_neon.h>
#include <cstdint>
#include <cstring>

#include "../simd/vector.h"
#include "format_table.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr int width = 16;

struct B {
    int8x16_t v;
};

inline B load_bytes(const void* p) { return {vld1q_s8(static_cast<const std::int8_t*>(p))}; }
inline void store_bytes(void* p, B a) { vst1q_s8(static_cast<std::int8_t*>(p), a.v); }

inline I zero_sums() { return {vdupq_n_s32(0)}; }
inline I dot(I sum, B a, B b) { return {vdotq_s32(sum.v, a.v, b.v)}; }

// The order of the activations of a super-block.
template <Activations>
void arrange(B (&)[16]) {}

inline float total(F a) { return vaddvq_f32(a.v); }
inline std::int32_t total(I a) { return vaddvq_s32(a.v); }
inline I rounded(F a) { return {vcvtnq_s32_f32(a.v)}; }
inline void store_narrow(std::int8_t* p, I a) {
    const int16x4_t words = vmovn_s32(a.v);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
    const std::int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
    std::memcpy(p, &four, sizeof four);
}

// 16 bytes: the first 16 of 32 weights in the low nibbles and the others in the high ones; table of 16 values.
inline void look_up_nibbles(const std::uint8_t* p, const std::int8_t (&table)[16], std::int8_t* q) {
    const int8x16_t values = vld1q_s8(table);
    const uint8x16_t nibbles = vld1q_u8(p);
    vst1q_s8(q, vqtbl1q_s8(values, vandq_u8(nibbles, vdupq_n_u8(15))));
    vst1q_s8(q + 16, vqtbl1q_s8(values, vshrq_n_u8(nibbles, 4)));
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
