// Super-blocks unpacked in the order of the activations (see arrange): packed bytes are brought into it, which are
// fewer than the weights. The 64-bit lane j of each of four vectors has weights of the j-th 32 of a super-block.
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_avx512.h"
#endif
#if !defined(MATMUL_GRIDS)
#define MATMUL_GRIDS "entries_avx512.h"
#endif

#include <immintrin.h>
#include <cstdint>

#include "bytes.h"
#include "formats/all.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// The 64-bit lanes of a and b (0 to 7, 8 to 15) that `index` names.
inline __m512i pick(__m512i a, __m512i index, __m512i b) { return _mm512_permutex2var_epi64(a, index, b); }
// `bits` where the mask is set, else a.
inline __m512i merged(__m512i a, __m512i bits, __m512i mask) { return _mm512_ternarylogic_epi64(a, bits, mask, 0xD8); }
inline __m512i plus(__m512i index, int i) { return _mm512_add_epi64(index, _mm512_set1_epi64(i)); }

// 64 bytes: of 128 weights each, bits 2 g and 2 g + 1 of 32 bytes are of the g-th 32.
inline void arranged_two_bits(const std::uint8_t* p, B (&q)[4]) {
    const __m512i bits = _mm512_loadu_si512(p), half = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
    const __m512i shifts = _mm512_setr_epi64(0, 2, 4, 6, 0, 2, 4, 6);
    for (int v = 0; v < 4; ++v) {
        const __m512i moved = _mm512_srlv_epi64(_mm512_permutexvar_epi64(plus(half, v), bits), shifts);
        q[v].v = _mm512_and_si512(moved, _mm512_set1_epi8(3));
    }
}

// 32 bytes whose bit j is of the j-th 32 weights: the bit To of a byte of theirs.
template <int To>
void add_arranged_bit(const std::uint8_t* p, B (&q)[4]) {
    const __m512i rotations = _mm512_and_si512(
        _mm512_sub_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(To)), _mm512_set1_epi64(63));
    for (int v = 0; v < 4; ++v) {
        std::int64_t bits;
        std::memcpy(&bits, p + 8 * v, sizeof bits);
        const __m512i moved = _mm512_rorv_epi64(_mm512_set1_epi64(bits), rotations);
        q[v].v = merged(q[v].v, moved, _mm512_set1_epi8(1 << To));
    }
}

// 128 bytes: of 64 weights each, the first 32 in the low nibbles of 32 bytes and the others in the high ones.
inline void arranged_nibbles(const std::uint8_t* p, B (&q)[4]) {
    const __m512i first = _mm512_loadu_si512(p), second = _mm512_loadu_si512(p + 64);
    const __m512i index = _mm512_setr_epi64(0, 0, 4, 4, 8, 8, 12, 12),
                  shifts = _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4);
    for (int v = 0; v < 4; ++v) {
        q[v].v = low_nibbles(_mm512_srlv_epi64(pick(first, plus(index, v), second), shifts));
    }
}

// 128 bytes of nibbles and 64 bytes of two bits: of 128 weights each, the first 64 in the low nibbles of 64 bytes, and
// the g-th 32 in bits 2 g and 2 g + 1 of 32 bytes.
inline void arranged_six_bits(const std::uint8_t* low, const std::uint8_t* high, B (&q)[4]) {
    const __m512i first = _mm512_loadu_si512(low), second = _mm512_loadu_si512(low + 64);
    const __m512i index = _mm512_setr_epi64(0, 4, 0, 4, 8, 12, 8, 12),
                  shifts = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    const __m512i bits = _mm512_loadu_si512(high), half = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
    const __m512i rotations = _mm512_setr_epi64(60, 62, 0, 2, 60, 62, 0, 2);
    for (int v = 0; v < 4; ++v) {
        const __m512i nibbles = low_nibbles(_mm512_srlv_epi64(pick(first, plus(index, v), second), shifts));
        const __m512i moved = _mm512_rorv_epi64(_mm512_permutexvar_epi64(plus(half, v), bits), rotations);
        q[v].v = merged(nibbles, moved, _mm512_set1_epi8(48));
    }
}

// Of 16 bytes for each 32 weights, four times in `first` and in `second`: the first 16 in their low nibbles.
inline void arrange_nibbles(__m512i first, __m512i second, B (&q)[4]) {
    const __m512i index = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    for (int v = 0; v < 2; ++v) {
        const __m512i packed = pick(first, plus(index, v), second);
        q[v].v = low_nibbles(packed);
        q[v + 2].v = high_nibbles(packed);
    }
}

// Four times 16 bytes, Step bytes from one to the next.
template <int Step>
__m512i gather_four(const std::uint8_t* p) {
    __m512i four = _mm512_castsi128_si512(load_16(p));
    four = _mm512_mask_broadcast_i32x4(four, 0x00F0, load_16(p + Step));
    four = _mm512_mask_broadcast_i32x4(four, 0x0F00, load_16(p + 2 * Step));
    return _mm512_mask_broadcast_i32x4(four, 0xF000, load_16(p + 3 * Step));
}

template <class Weights>
[[gnu::always_inline]] inline void unpack_arranged(const Weights& weights, B (&q)[4]) {
    B half[2][vectors];
    weights.template unpack<0>(half[0]);
    weights.template unpack<1>(half[1]);
    for (int i = 0; i < 4; ++i) q[i] = half[i / 2][i % 2];
    arrange<activations_of<Weights>>(q);
}

inline void unpack_arranged(const Q2K& weights, B (&q)[4]) { arranged_two_bits(weights.p + 16, q); }

inline void unpack_arranged(const Q3K& weights, B (&q)[4]) {
    arranged_two_bits(weights.p + 32, q);
    add_arranged_bit<2>(weights.p, q);
}

template <int Bits>
void unpack_arranged(const FourOrFiveBits<Bits>& weights, B (&q)[4]) {
    arranged_nibbles(weights.p + super_block_bytes<FourOrFiveBits<Bits>>() - 128, q);
    if constexpr (Bits == 5) add_arranged_bit<4>(weights.p + 16, q);
}

inline void unpack_arranged(const Q6K& weights, B (&q)[4]) { arranged_six_bits(weights.p, weights.p + 128, q); }

inline void unpack_arranged(const IQ4XS& weights, B (&q)[4]) {
    arrange_nibbles(_mm512_loadu_si512(weights.p + 8), _mm512_loadu_si512(weights.p + 72), q);
    for (B& bytes : q) bytes = look_up(repeat_lane(iq4_table()), bytes);
}

inline void unpack_arranged(const IQ4NL& weights, B (&q)[4]) {
    arrange_nibbles(gather_four<18>(weights.p + 2), gather_four<18>(weights.p + 2 + 4 * 18), q);
    for (B& bytes : q) bytes = look_up(repeat_lane(iq4_table()), bytes);
}

template <Format Name, bool HasMins>
void unpack_arranged(const BlocksOf32<Name, 4, HasMins>& weights, B (&q)[4]) {
    constexpr int step = row_of(Name).block_bytes;
    const std::uint8_t* const first = weights.p + step - 16;
    arrange_nibbles(gather_four<step>(first), gather_four<step>(first + 4 * step), q);
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
