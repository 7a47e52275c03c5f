// IQ2 and IQ3 with AVX2: the entries of a grid are loaded one by one, from a table of bytes in the cache of level 1.
// The bytes that result are `offset` above the weights.
#pragma once

#include <immintrin.h>
#include <cstdint>
#include <cstring>

#include "../bytes_avx2.h"
#include "load_entries.h"
#include "signs.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline std::int64_t four_low_four_high(const std::uint8_t* low, const std::uint8_t* high) {
    std::uint32_t first, second;
    std::memcpy(&first, low, sizeof first);
    std::memcpy(&second, high, sizeof second);
    return static_cast<std::int64_t>(first | std::uint64_t{second} << 32);
}

// 32 weights: the magnitudes of the entries index(0), index(1), ..., with the 32 signs at p.
template <const auto& Grid, class Index>
B unpack_entries(const std::uint8_t* signs, const Index& index) {
    const auto& entries = bytes_of<Grid>.entries;
    __m128i half[2];
    for (int h = 0; h < 2; ++h) {
        if constexpr (Grid.weights == 8) {
            half[h] = two_entries(entries[index(2 * h)], entries[index(2 * h + 1)]);
        } else {
            half[h] = _mm_set_epi64x(four_low_four_high(entries[index(4 * h + 2)], entries[index(4 * h + 3)]),
                                     four_low_four_high(entries[index(4 * h)], entries[index(4 * h + 1)]));
        }
    }
    const __m256i values = _mm256_set_m128i(half[1], half[0]);
    const __m256i byte = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
    const __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(four_bytes(signs).v, byte), bit);
    // -(value + offset) + 2 * offset
    const __m256i negated = _mm256_sub_epi8(_mm256_set1_epi8(2 * Grid.offset()), values);
    return {_mm256_blendv_epi8(values, negated, _mm256_cmpeq_epi8(spread, bit))};
}

struct SignBytes {
    alignas(32) std::uint8_t bytes[32];

    explicit SignBytes(__m256i signs) { _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), signs); }
    const std::uint8_t* at(int i) const { return bytes + i; }
};
struct SignsAt {
    const std::uint8_t* p;
    const std::uint8_t* at(int i) const { return p + i; }
};

// A super-block: index(i, j) gives the j-th entry of the i-th 32 weights.
template <const auto& Grid, class Signs, class Index>
struct Entries {
    Signs signs;
    Index index;

    template <int Half>
    void unpack(B (&q)[4]) const {
        for (int i = 0; i < 4; ++i) {
            const int of_32 = 4 * Half + i;
            q[i] = unpack_entries<Grid>(signs.at(4 * of_32), [this, of_32](int j) { return index(of_32, j); });
        }
    }
};
template <const auto& Grid, class Signs, class Index>
Entries<Grid, Signs, Index> make_entries(const Signs& signs, const Index& index) {
    return {signs, index};
}

// The odd words of 32 bits of 64 bytes.
inline __m256i odd_words(const std::uint8_t* p) {
    const __m256 both =
        _mm256_shuffle_ps(_mm256_castsi256_ps(load_bytes(p).v), _mm256_castsi256_ps(load_bytes(p + 32).v), 0xDD);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(both), 0xD8);
}

inline auto read_iq2_xxs(const std::uint8_t* p) {
    return make_entries<grids::iq2_xxs>(SignBytes(eight_signs_of_seven(odd_words(p))),
                                        [p](int i, int j) { return p[8 * i + j]; });
}

inline auto read_iq2_xs(const std::uint8_t* p) {
    const __m256i low = _mm256_srli_epi16(load_bytes(p).v, 9), high = _mm256_srli_epi16(load_bytes(p + 32).v, 9);
    const __m256i seven = _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), 0xD8);
    return make_entries<grids::iq2_xs>(SignBytes(eighth_sign(seven)), [p](int i, int j) {
        const std::uint8_t* const at = p + 8 * i + 2 * j;
        return at[0] | (at[1] & 1) << 8;
    });
}

inline auto read_iq2_s(const std::uint8_t* p) {
    return make_entries<grids::iq2_s>(SignsAt{p + 32},
                                      [p](int i, int j) { return p[4 * i + j] | (p[64 + i] << (8 - 2 * j) & 0x300); });
}

inline auto read_iq3_xxs(const std::uint8_t* p) {
    return make_entries<grids::iq3_xxs>(SignBytes(eight_signs_of_seven(load_bytes(p + 64).v)),
                                        [p](int i, int j) { return p[8 * i + j]; });
}

inline auto read_iq3_s(const std::uint8_t* p) {
    return make_entries<grids::iq3_s>(SignsAt{p + 72},
                                      [p](int i, int j) { return p[8 * i + j] | (p[64 + i] << (8 - j) & 0x100); });
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
