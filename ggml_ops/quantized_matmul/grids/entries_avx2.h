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

inline std::int32_t four_weights(const std::uint8_t* entry) {
    std::int32_t word;
    std::memcpy(&word, entry, sizeof word);
    return word;
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
            const auto entry = [&](int j) { return four_weights(entries[index(4 * h + j)]); };
            half[h] = _mm_setr_epi32(entry(0), entry(1), entry(2), entry(3));
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

// The numbers of a super-block's entries, for grids of more than 256: made in vectors, since scalar shifts for each
// entry took longer than all else. They are volatile to be loaded from memory: GCC would extract each from a vector,
// which takes twice as long.
template <int PerUnit>  // entries of 32 weights
struct Numbers {
    alignas(32) std::uint16_t of[8 * PerUnit];

    int operator()(int i, int j) const {
        const volatile std::uint16_t& number = of[PerUnit * i + j];
        return number;
    }
};
inline void store_words(std::uint16_t* to, __m256i words) { _mm256_store_si256(reinterpret_cast<__m256i*>(to), words); }

// 16 bytes as words of 16 bits.
inline __m256i words_at(const std::uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
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
    const __m256i first = load_bytes(p).v, last = load_bytes(p + 32).v;
    const __m256i seven = _mm256_packus_epi16(_mm256_srli_epi16(first, 9), _mm256_srli_epi16(last, 9));
    Numbers<4> numbers;
    store_words(numbers.of, _mm256_and_si256(first, _mm256_set1_epi16(511)));
    store_words(numbers.of + 16, _mm256_and_si256(last, _mm256_set1_epi16(511)));
    return make_entries<grids::iq2_xs>(SignBytes(eighth_sign(_mm256_permute4x64_epi64(seven, 0xD8))), numbers);
}

inline auto read_iq2_s(const std::uint8_t* p) {
    return make_entries<grids::iq2_s>(SignsAt{p + 32},
                                      [p](int i, int j) { return p[4 * i + j] | (p[64 + i] << (8 - 2 * j) & 0x300); });
}

inline auto read_iq3_xxs(const std::uint8_t* p) {
    return make_entries<grids::iq3_xxs>(SignBytes(eight_signs_of_seven(load_bytes(p + 64).v)),
                                        [p](int i, int j) { return p[8 * i + j]; });
}

// One more bit of each number is in a byte of the 32 weights.
inline auto read_iq3_s(const std::uint8_t* p) {
    Numbers<8> numbers;
    std::int64_t eight;
    std::memcpy(&eight, p + 64, sizeof eight);
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128);
    for (int pair = 0; pair < 4; ++pair) {
        const auto byte_of_word = [pair](int of) { return _mm_set1_epi16(static_cast<short>(0x8000 + 2 * pair + of)); };
        const __m256i byte =
            _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), _mm256_set_m128i(byte_of_word(1), byte_of_word(0)));
        const __m256i is_set = _mm256_cmpeq_epi16(_mm256_and_si256(byte, bit), bit);
        store_words(numbers.of + 16 * pair,
                    _mm256_or_si256(words_at(p + 16 * pair), _mm256_and_si256(is_set, _mm256_set1_epi16(0x100))));
    }
    return make_entries<grids::iq3_s>(SignsAt{p + 72}, numbers);
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
