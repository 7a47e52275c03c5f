// 32 bytes: AVX2, with AVX-VNNI where MATMUL_VNNI is defined.
#pragma once

#if !defined(SIMD_TARGET)
#define SIMD_TARGET avx2
#define SIMD_VECTOR "vector_avx2.h"
#endif

#include <immintrin.h>
#include <cstdint>
#include <cstring>

#include "../simd/vector.h"
#include "format_table.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr int width = 32;
inline constexpr int tile_vectors = 2;

struct B {
    __m256i v;
};

inline B load_bytes(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
inline void store_bytes(void* p, B a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a.v); }
inline B four_bytes(const void* p) {
    std::int32_t four;
    std::memcpy(&four, p, sizeof four);
    return {_mm256_set1_epi32(four)};
}

// A sum that is computed now: GCC would postpone it until all its terms are, for which there are too few registers.
template <class Vector>
Vector now(Vector a) {
#if defined(__GNUC__)
    asm("" : "+x"(a.v));
#endif
    return a;
}

// Sums of pairs of products; at most 2 * 63 * 127 each.
inline B pairs(B a, B b) { return {_mm256_maddubs_epi16(a.v, b.v)}; }
inline B add_pairs(B a, B b) { return now(B{_mm256_add_epi16(a.v, b.v)}); }
inline I widen(B a) { return {_mm256_madd_epi16(a.v, _mm256_set1_epi16(1))}; }
// Of signed bytes; -128 becomes 128, and b times a is with_signs_of(b, a) times magnitudes(a).
inline B magnitudes(B a) { return {_mm256_abs_epi8(a.v)}; }
inline B with_signs_of(B b, B a) { return {_mm256_sign_epi8(b.v, a.v)}; }
// Pairs times 16-bit scales.
inline I scaled(B a, B scale) { return {_mm256_madd_epi16(a.v, scale.v)}; }

// The order of the activations of a super-block. Those with one scale for 32 values: the 32-bit lane j of the vector v
// has values 4 v to 4 v + 3 of the j-th 32, so that all sums of a lane have one scale.
template <Activations Kind>
constexpr int arranged_offset(int i) {
    return Kind == Activations::q8_k ? i : i % 32 / 4 * width + i / 32 * 4 + i % 4;
}
template <Activations Kind>
[[gnu::always_inline]] inline void arrange(B (&q)[8]) {
    if constexpr (Kind != Activations::q8_k) {
        F rows[8];
        for (int i = 0; i < 8; ++i) rows[i].v = _mm256_castsi256_ps(q[i].v);
        transpose(rows);
        for (int i = 0; i < 8; ++i) q[i].v = _mm256_castps_si256(rows[i].v);
    }
}

inline I zero_sums() { return {_mm256_setzero_si256()}; }

#if defined(MATMUL_VNNI)
// Unsigned bytes times signed bytes, four to a lane, without saturation: what exceeds seven bits may be made unsigned.
inline constexpr bool wide_is_unsigned = true;
inline constexpr bool sums_in_lanes = true;  // `dot` adds four products to a lane in one instruction
inline constexpr int tile_columns = 3;
inline I dot(I sum, B a, B b) { return {_mm256_dpbusd_avx_epi32(sum.v, a.v, b.v)}; }
inline I dot_wide(I sum, B a, B b) { return dot(sum, a, b); }
inline B make_wide(B a) { return {_mm256_xor_si256(a.v, _mm256_set1_epi8(-128))}; }
inline I scaled(I sum, B a, B scale) { return {_mm256_dpwssd_avx_epi32(sum.v, a.v, scale.v)}; }
#else
// Pairs of products of unsigned bytes of eight bits would saturate: the sign goes to the other factor.
inline constexpr bool wide_is_unsigned = false;
inline constexpr bool sums_in_lanes = false;
inline constexpr int tile_columns = 3;
inline I dot(I sum, B a, B b) { return sum + widen(pairs(a, b)); }
inline I dot_wide(I sum, B a, B b) { return now(dot(sum, magnitudes(a), with_signs_of(b, a))); }
inline B make_wide(B a) { return a; }
inline I scaled(I sum, B a, B scale) { return now(sum + scaled(a, scale)); }
#endif

inline I multiply(I a, I b) { return {_mm256_mullo_epi32(a.v, b.v)}; }

inline F eight(const float* p) { return load(p); }
inline I eight(const std::int32_t* p) { return {load_bytes(p).v}; }
inline F eight_fp16(__m128i halves) { return {_mm256_cvtph_ps(halves)}; }
inline I integers(__m128i bytes) { return {_mm256_cvtepi8_epi32(bytes)}; }

// Sixteen scales, of 16 weights each, the even ones in the low half and the odd ones in the high one.
inline B make_words(__m128i scales) {
    const __m128i even_first = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return {_mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, even_first))};
}
// Of these the two for the i-th 32 weights, repeated for their pairs.
inline B spread_words(B words, int i) {
    return {_mm256_shuffle_epi8(words.v, _mm256_set1_epi16(static_cast<short>(0x0202 * i + 0x0100)))};
}
// Of eight scales, of 32 weights each, that for the i-th 32 weights, repeated for the lanes of `dot`.
inline I spread(I eight_scales, int i) { return {_mm256_permutevar8x32_epi32(eight_scales.v, _mm256_set1_epi32(i))}; }

inline std::int32_t total(I a) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
}
inline float total(F a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline I rounded(F a) { return {_mm256_cvtps_epi32(a.v)}; }
inline void store_narrow(std::int8_t* p, I a) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}

inline __m256i low_nibbles(__m256i a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
inline __m256i high_nibbles(__m256i a) { return low_nibbles(_mm256_srli_epi16(a, 4)); }

// Sixteen words.
struct H {
    __m256i v;
};
inline H to_words(__m128i bytes) { return {_mm256_cvtepi8_epi16(bytes)}; }
inline H operator*(H a, int factor) { return {_mm256_mullo_epi16(a.v, _mm256_set1_epi16(static_cast<short>(factor)))}; }
inline void store_words(void* p, H a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a.v); }
// Sums of two products each.
inline I sums_of_products(H a, const std::int16_t* b) {
    return {_mm256_madd_epi16(a.v, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)))};
}

// Bytes plus a number.
inline B raised(B a, int by) { return {_mm256_add_epi8(a.v, _mm256_set1_epi8(static_cast<char>(by)))}; }

// Each of the 16 bytes of a lane selects one of a table, which every lane has of its own.
inline B look_up(B tables, B index) { return {_mm256_shuffle_epi8(tables.v, index.v)}; }
inline B repeat_lane(__m128i a) { return {_mm256_broadcastsi128_si256(a)}; }
// Of 16 scales, of 16 weights each, those of the i-th 32 weights: each fills a lane.
inline B repeat_in_lanes(__m128i scales, int i) {
    const __m256i lane = _mm256_set_epi64x(0x0101010101010101, 0x0101010101010101, 0, 0);
    const __m256i first = _mm256_set1_epi8(static_cast<char>(2 * i));
    return {_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(scales), _mm256_add_epi8(lane, first))};
}
// Of lanes that a byte fills: this byte times each of eight numbers, twice, modulo 256.
template <int C0, int C1, int C2, int C3, int C4, int C5, int C6, int C7>
B multiples(B a) {
    // The low byte of a word times the even number, and, moved up by eight bits, times the odd one.
    const __m256i even = _mm256_broadcastsi128_si256(_mm_setr_epi16(C0, C2, C4, C6, C0, C2, C4, C6));
    const __m256i odd = _mm256_broadcastsi128_si256(
        _mm_setr_epi16(C1 * 256, C3 * 256, C5 * 256, C7 * 256, C1 * 256, C3 * 256, C5 * 256, C7 * 256));
    const __m256i low = _mm256_and_si256(_mm256_mullo_epi16(a.v, even), _mm256_set1_epi16(0xFF));
    return {_mm256_or_si256(low, _mm256_mullo_epi16(a.v, odd))};
}

// What follows unpacks 128 weights.

// 64 bytes: of 64 weights each, the first 32 in the low nibbles and the others in the high ones.
inline void unpack_nibbles(const std::uint8_t* p, B (&q)[4]) {
    for (int i = 0; i < 2; ++i) {
        const __m256i packed = load_bytes(p + 32 * i).v;
        q[2 * i].v = low_nibbles(packed);
        q[2 * i + 1].v = high_nibbles(packed);
    }
}

// 32 bytes whose bit j is the fifth of the j-th 32 weights; Half: bits 0 to 3 or 4 to 7.
template <int Half>
void add_fifth_bit(const std::uint8_t* p, B (&q)[4]) {
    const __m256i bits = load_bytes(p).v;
    const __m256i mask = _mm256_set1_epi8(16);
    const __m256i moved[4] = {Half == 0 ? _mm256_slli_epi16(bits, 4) : bits,
                              Half == 0 ? _mm256_slli_epi16(bits, 3) : _mm256_srli_epi16(bits, 1),
                              Half == 0 ? _mm256_slli_epi16(bits, 2) : _mm256_srli_epi16(bits, 2),
                              Half == 0 ? _mm256_slli_epi16(bits, 1) : _mm256_srli_epi16(bits, 3)};
    for (int i = 0; i < 4; ++i) q[i].v = _mm256_or_si256(q[i].v, _mm256_and_si256(moved[i], mask));
}

// Four bits each in 64 bytes, and two bits in 32 bytes.
inline void unpack_six_bits(const std::uint8_t* low, const std::uint8_t* high, B (&q)[4]) {
    const __m256i mask = _mm256_set1_epi8(48);
    const __m256i a = load_bytes(low).v, b = load_bytes(low + 32).v, bits = load_bytes(high).v;
    const __m256i nibbles[4] = {low_nibbles(a), low_nibbles(b), high_nibbles(a), high_nibbles(b)};
    const __m256i moved[4] = {_mm256_slli_epi16(bits, 4), _mm256_slli_epi16(bits, 2), bits, _mm256_srli_epi16(bits, 2)};
    for (int i = 0; i < 4; ++i) q[i].v = _mm256_or_si256(nibbles[i], _mm256_and_si256(moved[i], mask));
}

// 64 bytes: of 32 weights each, the first 16 in the low nibbles and the others in the high ones; table of 16 values.
inline void look_up_nibbles(const std::uint8_t* p, __m128i table, B (&q)[4]) {
    const __m256i values = _mm256_broadcastsi128_si256(table);
    for (int i = 0; i < 4; ++i) {
        const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * i));
        const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(packed), _mm_srli_epi16(packed, 4), 1);
        q[i].v = _mm256_shuffle_epi8(values, low_nibbles(both));
    }
}

// Four blocks of 32 bytes, `step` bytes from one to the next.
inline void gather_blocks(const std::uint8_t* p, std::int64_t step, B (&q)[4]) {
    for (int i = 0; i < 4; ++i) q[i] = load_bytes(p + i * step);
}

// 32 bytes whose bits 2 j and 2 j + 1 are of the j-th 32 weights.
inline void unpack_two_bits(const std::uint8_t* p, B (&q)[4]) {
    const __m256i bits = load_bytes(p).v, mask = _mm256_set1_epi8(3);
    for (int i = 0; i < 4; ++i) q[i].v = _mm256_and_si256(_mm256_srli_epi16(bits, 2 * i), mask);
}

// 32 bytes whose bit j is the third of the j-th 32 weights; Half: bits 0 to 3 or 4 to 7.
template <int Half>
void add_third_bit(const std::uint8_t* p, B (&q)[4]) {
    const __m256i bits = load_bytes(p).v, mask = _mm256_set1_epi8(4);
    for (int i = 0; i < 4; ++i) {
        constexpr int up = 2 - 4 * Half;  // bit 4 * Half + i moves to bit 2
        const __m256i moved = up >= i ? _mm256_slli_epi16(bits, up - i) : _mm256_srli_epi16(bits, i - up);
        q[i].v = _mm256_or_si256(q[i].v, _mm256_and_si256(moved, mask));
    }
}

// Four times 16 bytes, Step from one to the next: of 32 weights, the first 16 in their low nibbles and the others in
// the high ones.
template <int Step>
void gather_nibbles(const std::uint8_t* p, B (&q)[4]) {
    for (int i = 0; i < 4; ++i) {
        const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * Step));
        q[i].v = low_nibbles(_mm256_inserti128_si256(_mm256_castsi128_si256(packed), _mm_srli_epi16(packed, 4), 1));
    }
}

// Four times 32 bits, Step bytes from one to the next: the fifth ones of 32 weights.
template <int Step>
void gather_fifth_bits(const std::uint8_t* p, B (&q)[4]) {
    const __m256i byte_of_lane = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const __m256i bit_of_byte = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
    for (int i = 0; i < 4; ++i) {
        const __m256i repeated = _mm256_shuffle_epi8(four_bytes(p + i * Step).v, byte_of_lane);
        const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(repeated, bit_of_byte), bit_of_byte);
        q[i].v = _mm256_or_si256(q[i].v, _mm256_and_si256(is_set, _mm256_set1_epi8(16)));
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
