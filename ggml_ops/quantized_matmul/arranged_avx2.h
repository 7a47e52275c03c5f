// Super-blocks unpacked in the order of activations with one scale for 32 values (see arrange): packed bytes are
// brought into it, which are fewer than the weights. The 32-bit lane j of eight vectors has weights of the j-th 32.
#pragma once

#include <immintrin.h>
#include <cstdint>
#include <cstring>

#include "bytes.h"
#include "formats/all.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Eight times 16 bytes, Step from one to the next: weights i and 16 + i of 32 in the i-th.
template <int Step>
[[gnu::always_inline]] inline void arrange_nibbles(const std::uint8_t* p, B (&q)[8]) {
    __m256i r[4];
    for (int i = 0; i < 4; ++i) {
        const __m256i first = _mm256_castsi128_si256(load_16(p + i * Step));
        r[i] = _mm256_inserti128_si256(first, load_16(p + (i + 4) * Step), 1);
    }
    const __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpacklo_epi32(r[2], r[3]);
    const __m256i c = _mm256_unpackhi_epi32(r[0], r[1]), d = _mm256_unpackhi_epi32(r[2], r[3]);
    const __m256i packed[4] = {_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b), _mm256_unpacklo_epi64(c, d),
                               _mm256_unpackhi_epi64(c, d)};
    for (int i = 0; i < 4; ++i) {
        q[i].v = low_nibbles(packed[i]);
        q[i + 4].v = high_nibbles(packed[i]);
    }
}

// Eight times 32 bits, Step bytes from one to the next: the i-th is the fifth of the weight i of 32.
template <int Step>
[[gnu::always_inline]] inline void add_arranged_fifth_bits(const std::uint8_t* p, B (&q)[8]) {
    const auto words = [p](int first) {
        const auto word = [p, first](int i) {
            std::int32_t four;
            std::memcpy(&four, p + (first + i) * Step, sizeof four);
            return four;
        };
        // Not through memory: see eight_fp16_at.
        return _mm_insert_epi32(_mm_insert_epi32(_mm_insert_epi32(_mm_cvtsi32_si128(word(0)), word(1), 1), word(2), 2),
                                word(3), 3);
    };
    const __m256i bits = _mm256_inserti128_si256(_mm256_castsi128_si256(words(0)), words(4), 1);
    const __m256i first_bytes =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    const __m256i low = _mm256_set1_epi32(0x08040201), high = _mm256_slli_epi16(low, 4);
    for (int i = 0; i < 8; ++i) {
        const __m256i index = _mm256_add_epi8(first_bytes, _mm256_set1_epi8(static_cast<char>(i / 2)));
        const __m256i mask = i % 2 == 0 ? low : high;
        const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, index), mask), mask);
        q[i].v = _mm256_or_si256(q[i].v, _mm256_and_si256(is_set, _mm256_set1_epi8(16)));
    }
}

template <class Weights>
[[gnu::always_inline]] inline void unpack_arranged(const Weights& weights, B (&q)[8]) {
    B half[2][vectors];
    weights.template unpack<0>(half[0]);
    weights.template unpack<1>(half[1]);
    for (int i = 0; i < 8; ++i) q[i] = half[i / 4][i % 4];
    arrange<activations_of<Weights>>(q);
}

[[gnu::always_inline]] inline void unpack_arranged(const IQ4NL& weights, B (&q)[8]) {
    arrange_nibbles<18>(weights.p + 2, q);
    for (B& bytes : q) bytes = look_up(repeat_lane(iq4_table()), bytes);
}

template <Format Name, int Bits, bool HasMins>
[[gnu::always_inline]] inline void unpack_arranged(const BlocksOf32<Name, Bits, HasMins>& weights, B (&q)[8]) {
    constexpr int step = row_of(Name).block_bytes;
    arrange_nibbles<step>(weights.p + step - 16, q);
    if constexpr (Bits == 5) add_arranged_fifth_bits<step>(weights.p + step - 20, q);
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
