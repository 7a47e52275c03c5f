// 64 bytes: AVX-512 F, BW, DQ, VL and VNNI.
#pragma once

#if !defined(SIMD_TARGET)
#define SIMD_TARGET avx512vnni
#define SIMD_VECTOR "vector_avx512.h"
#endif

#include <immintrin.h>
#include <cstdint>
#include <cstring>

#include "../simd/vector.h"
#include "format_table.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr int width = 64;
// Unsigned bytes times signed bytes, four to a lane, without saturation: what exceeds seven bits may be made unsigned.
inline constexpr bool wide_is_unsigned = true;
inline constexpr bool sums_in_lanes = true;  // `dot` adds four products to a lane in one instruction
inline constexpr int tile_vectors = 2;
inline constexpr int tile_columns = 6;

struct B {
    __m512i v;
};

inline B load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(void* p, B a) { _mm512_storeu_si512(p, a.v); }
inline B four_bytes(const void* p) {
    std::int32_t four;
    std::memcpy(&four, p, sizeof four);
    return {_mm512_set1_epi32(four)};
}

// The order of the activations of a super-block: the 64-bit lane j has those of the j-th 32 weights, eight in each of
// four vectors, so that all sums of a lane have one scale (or two, one for two vectors each).
template <Activations>
constexpr int arranged_offset(int i) {
    return i % 32 / 8 * width + i / 32 * 8 + i % 8;
}
template <Activations>
void arrange(B (&q)[4]) {
    const __m512i first = _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13);
    const __m512i second = _mm512_setr_epi64(2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i a = _mm512_permutex2var_epi64(q[0].v, first, q[1].v);
    const __m512i b = _mm512_permutex2var_epi64(q[2].v, first, q[3].v);
    const __m512i c = _mm512_permutex2var_epi64(q[0].v, second, q[1].v);
    const __m512i d = _mm512_permutex2var_epi64(q[2].v, second, q[3].v);
    q[0].v = _mm512_shuffle_i64x2(a, b, 0x44);
    q[1].v = _mm512_shuffle_i64x2(a, b, 0xEE);
    q[2].v = _mm512_shuffle_i64x2(c, d, 0x44);
    q[3].v = _mm512_shuffle_i64x2(c, d, 0xEE);
}
// Of eight floats, or of sixteen the even or the odd ones, each for the two floats of its 64-bit lane.
inline __m512i pairs_of(int first, int step) {
    const __m512i pair = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_add_epi32(_mm512_mullo_epi32(pair, _mm512_set1_epi32(step)), _mm512_set1_epi32(first));
}
inline F spread_eight(F a) { return {_mm512_permutexvar_ps(pairs_of(0, 1), a.v)}; }
inline F spread_even(F a) { return {_mm512_permutexvar_ps(pairs_of(0, 2), a.v)}; }
inline F spread_odd(F a) { return {_mm512_permutexvar_ps(pairs_of(1, 2), a.v)}; }

inline I zero_sums() { return {_mm512_setzero_si512()}; }
inline I dot(I sum, B a, B b) { return {_mm512_dpbusd_epi32(sum.v, a.v, b.v)}; }
inline I dot_wide(I sum, B a, B b) { return dot(sum, a, b); }

// Of integers, shifted right, each in the first 32 bits of its 64-bit lane: eight, or of sixteen the even and odd ones.
template <int Shift>
I spread_starts(const std::int32_t* p) {
    const __m256i eight_starts = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_cvtepu32_epi64(_mm256_srai_epi32(eight_starts, Shift))};
}
template <int Shift>
void spread_starts(const std::int32_t* p, I& even, I& odd) {
    const __m512i starts = _mm512_srai_epi32(_mm512_loadu_si512(p), Shift);
    even.v = _mm512_maskz_mov_epi32(0x5555, starts);
    odd.v = _mm512_srli_epi64(starts, 32);
}
inline B make_wide(B a) { return {_mm512_xor_si512(a.v, _mm512_set1_epi8(-128))}; }

// Sums of pairs of products; at most 2 * 63 * 127 each.
inline B pairs(B a, B b) { return {_mm512_maddubs_epi16(a.v, b.v)}; }
// Pairs times 16-bit scales.
inline I scaled(B a, B scale) { return {_mm512_madd_epi16(a.v, scale.v)}; }
inline I scaled(I sum, B a, B scale) { return {_mm512_dpwssd_epi32(sum.v, a.v, scale.v)}; }
inline I multiply(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }

// Eight floats; the lanes behind them are zero.
inline F eight(const float* p) { return {_mm512_zextps256_ps512(_mm256_loadu_ps(p))}; }
inline F eight_fp16(__m128i halves) { return {_mm512_zextps256_ps512(_mm256_cvtph_ps(halves))}; }
inline I integers(__m128i bytes) { return {_mm512_cvtepi8_epi32(bytes)}; }

// Sixteen scales, of 16 weights each, and of these the ones for the i-th 64 weights, repeated for their pairs.
inline B make_words(__m128i scales) { return {_mm512_castsi256_si512(_mm256_cvtepi8_epi16(scales))}; }
inline B spread_words(B words, int i) {
    const __m512i lane = _mm512_set_epi64(0x0003000300030003, 0x0003000300030003, 0x0002000200020002,
                                          0x0002000200020002, 0x0001000100010001, 0x0001000100010001, 0, 0);
    const __m512i first = _mm512_set1_epi16(static_cast<short>(4 * i));
    return {_mm512_permutexvar_epi16(_mm512_add_epi16(lane, first), words.v)};
}
// Of eight scales, of 32 weights each, those for the i-th 64 weights, repeated for the lanes of `dot`.
inline __m512i spread_lane(int i) {
    const __m512i pair = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_add_epi32(pair, _mm512_set1_epi32(2 * i));
}
inline F spread(F eight_scales, int i) { return {_mm512_permutexvar_ps(spread_lane(i), eight_scales.v)}; }
inline I spread(I eight_scales, int i) { return {_mm512_permutexvar_epi32(spread_lane(i), eight_scales.v)}; }

inline float total(F a) { return _mm512_reduce_add_ps(a.v); }
inline std::int32_t total(I a) { return _mm512_reduce_add_epi32(a.v); }
inline I rounded(F a) { return {_mm512_cvtps_epi32(a.v)}; }
inline void store_narrow(std::int8_t* p, I a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a.v));
}

inline __m512i low_nibbles(__m512i a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline __m512i high_nibbles(__m512i a) { return low_nibbles(_mm512_srli_epi16(a, 4)); }

// Sixteen words.
struct H {
    __m256i v;
};
inline H to_words(__m128i bytes) { return {_mm256_cvtepi8_epi16(bytes)}; }
inline H operator*(H a, int factor) { return {_mm256_mullo_epi16(a.v, _mm256_set1_epi16(static_cast<short>(factor)))}; }
inline void store_words(void* p, H a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a.v); }
// Sums of two products each; the lanes behind them are zero.
inline I sums_of_products(H a, const std::int16_t* b) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
    return {_mm512_zextsi256_si512(_mm256_madd_epi16(a.v, words))};
}

// Unsigned bytes plus a number.
inline B raised(B a, int by) { return {_mm512_add_epi8(a.v, _mm512_set1_epi8(static_cast<char>(by)))}; }

// Each of the 16 bytes of a lane selects one of a table, which every lane has of its own.
inline B look_up(B tables, B index) { return {_mm512_shuffle_epi8(tables.v, index.v)}; }
inline B repeat_lane(__m128i a) { return {_mm512_broadcast_i32x4(a)}; }
// Of 16 scales, of 16 weights each, those of the i-th 64 weights: each fills a lane.
inline B repeat_in_lanes(__m128i scales, int i) {
    const __m512i lane = _mm512_set_epi64(0x0303030303030303, 0x0303030303030303, 0x0202020202020202,
                                          0x0202020202020202, 0x0101010101010101, 0x0101010101010101, 0, 0);
    const __m512i first = _mm512_set1_epi8(static_cast<char>(4 * i));
    return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(scales), _mm512_add_epi8(lane, first))};
}
// Of lanes that a byte fills: this byte times each of eight numbers, twice, modulo 256.
template <int C0, int C1, int C2, int C3, int C4, int C5, int C6, int C7>
B multiples(B a) {
    // The low byte of a word times the even number, and, moved up by eight bits, times the odd one.
    const __m512i even = _mm512_broadcast_i32x4(_mm_setr_epi16(C0, C2, C4, C6, C0, C2, C4, C6));
    const __m512i odd = _mm512_broadcast_i32x4(
        _mm_setr_epi16(C1 * 256, C3 * 256, C5 * 256, C7 * 256, C1 * 256, C3 * 256, C5 * 256, C7 * 256));
    const __m512i low = _mm512_and_si512(_mm512_mullo_epi16(a.v, even), _mm512_set1_epi16(0xFF));
    return {_mm512_or_si512(low, _mm512_mullo_epi16(a.v, odd))};
}

// What follows unpacks 128 weights.

// 64 bytes: of 64 weights each, the first 32 in the low nibbles and the others in the high ones.
inline void unpack_nibbles(const std::uint8_t* p, B (&q)[2]) {
    const __m512i packed = _mm512_loadu_si512(p);
    const __m512i low = low_nibbles(packed), high = high_nibbles(packed);
    q[0].v = _mm512_shuffle_i64x2(low, high, 0x44);
    q[1].v = _mm512_shuffle_i64x2(low, high, 0xEE);
}

inline __m512i twice(const std::uint8_t* p) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512i halves_of_words(short low, short high) {
    return _mm512_inserti64x4(_mm512_set1_epi16(low), _mm256_set1_epi16(high), 1);
}

// 32 bytes whose bit j is the fifth of the j-th 32 weights; Half: bits 0 to 3 or 4 to 7.
template <int Half>
void add_fifth_bit(const std::uint8_t* p, B (&q)[2]) {
    const __m512i bits = twice(p);
    const __m512i mask = _mm512_set1_epi8(16);
    const __m512i first =
        Half == 0 ? _mm512_sllv_epi16(bits, halves_of_words(4, 3)) : _mm512_srlv_epi16(bits, halves_of_words(0, 1));
    const __m512i second =
        Half == 0 ? _mm512_sllv_epi16(bits, halves_of_words(2, 1)) : _mm512_srlv_epi16(bits, halves_of_words(2, 3));
    q[0].v = _mm512_or_si512(q[0].v, _mm512_and_si512(first, mask));
    q[1].v = _mm512_or_si512(q[1].v, _mm512_and_si512(second, mask));
}

// Four bits each in 64 bytes, and two bits in 32 bytes.
inline void unpack_six_bits(const std::uint8_t* low, const std::uint8_t* high, B (&q)[2]) {
    const __m512i mask = _mm512_set1_epi8(48);
    const __m512i packed = _mm512_loadu_si512(low);
    const __m512i bits = twice(high);
    const __m512i first = _mm512_sllv_epi16(bits, halves_of_words(4, 2));
    const __m512i second = _mm512_srlv_epi16(bits, halves_of_words(0, 2));
    q[0].v = _mm512_or_si512(low_nibbles(packed), _mm512_and_si512(first, mask));
    q[1].v = _mm512_or_si512(high_nibbles(packed), _mm512_and_si512(second, mask));
}

// 64 bytes: of 32 weights each, the first 16 in the low nibbles and the others in the high ones; table of 16 values.
inline void look_up_nibbles(const std::uint8_t* p, __m128i table, B (&q)[2]) {
    const __m512i values = _mm512_broadcast_i32x4(table);
    const __m512i lanes_twice = _mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0);
    const __m512i shifts =
        _mm512_set_epi64(0x0004000400040004, 0x0004000400040004, 0, 0, 0x0004000400040004, 0x0004000400040004, 0, 0);
    for (int i = 0; i < 2; ++i) {
        const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * i));
        const __m512i both = _mm512_permutexvar_epi64(lanes_twice, _mm512_castsi256_si512(packed));
        q[i].v = _mm512_shuffle_epi8(values, low_nibbles(_mm512_srlv_epi16(both, shifts)));
    }
}

// Four blocks of 32 bytes, `step` bytes from one to the next.
inline void gather_blocks(const std::uint8_t* p, std::int64_t step, B (&q)[2]) {
    for (int i = 0; i < 2; ++i) {
        const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 2 * i * step));
        const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + (2 * i + 1) * step));
        q[i].v = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    }
}

// 32 bytes whose bits 2 j and 2 j + 1 are of the j-th 32 weights.
inline void unpack_two_bits(const std::uint8_t* p, B (&q)[2]) {
    const __m512i bits = twice(p), mask = _mm512_set1_epi8(3);
    q[0].v = _mm512_and_si512(_mm512_srlv_epi16(bits, halves_of_words(0, 2)), mask);
    q[1].v = _mm512_and_si512(_mm512_srlv_epi16(bits, halves_of_words(4, 6)), mask);
}

// 32 bytes whose bit j is the third of the j-th 32 weights; Half: bits 0 to 3 or 4 to 7.
template <int Half>
void add_third_bit(const std::uint8_t* p, B (&q)[2]) {
    const __m512i bits = twice(p), mask = _mm512_set1_epi8(4);
    const __m512i first =
        Half == 0 ? _mm512_sllv_epi16(bits, halves_of_words(2, 1)) : _mm512_srlv_epi16(bits, halves_of_words(2, 3));
    const __m512i second = _mm512_srlv_epi16(bits, Half == 0 ? halves_of_words(0, 1) : halves_of_words(4, 5));
    q[0].v = _mm512_or_si512(q[0].v, _mm512_and_si512(first, mask));
    q[1].v = _mm512_or_si512(q[1].v, _mm512_and_si512(second, mask));
}

// Four times 16 bytes, Step from one to the next: of 32 weights, the first 16 in their low nibbles and the others in
// the high ones.
template <int Step>
void gather_nibbles(const std::uint8_t* p, B (&q)[2]) {
    const __m512i shifts =
        _mm512_set_epi64(0x0004000400040004, 0x0004000400040004, 0, 0, 0x0004000400040004, 0x0004000400040004, 0, 0);
    for (int i = 0; i < 2; ++i) {
        const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 2 * i * Step));
        const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + (2 * i + 1) * Step));
        const __m512i both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(first), 0xFF00, second);
        q[i].v = low_nibbles(_mm512_srlv_epi16(both, shifts));
    }
}

// Four times 32 bits, Step bytes from one to the next: the fifth ones of 32 weights.
template <int Step>
void gather_fifth_bits(const std::uint8_t* p, B (&q)[2]) {
    for (int i = 0; i < 2; ++i) {
        std::uint32_t first, second;
        std::memcpy(&first, p + 2 * i * Step, sizeof first);
        std::memcpy(&second, p + (2 * i + 1) * Step, sizeof second);
        const __mmask64 bits = first | std::uint64_t{second} << 32;
        q[i].v = _mm512_mask_add_epi8(q[i].v, bits, q[i].v, _mm512_set1_epi8(16));
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
