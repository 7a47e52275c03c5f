// IQ2 and IQ3 with AVX-512 VBMI and GFNI, which select bytes and bits of 64 bits freely. The entries are looked up in
// an order in which those of 64 weights are at the same place of each 64 bits, which then become eight bytes.
#pragma once

#include <immintrin.h>
#include <cstdint>
#include <cstring>

#include "../bytes_avx512.h"
#include "entries_in_words.h"
#include "load_entries.h"
#include "look_up_avx512.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// 64 constant bytes, computed from their positions.
struct Bytes64 {
    alignas(64) std::uint8_t bytes[64] = {};

    template <class Function>
    constexpr explicit Bytes64(const Function& function) {
        for (int i = 0; i < 64; ++i) bytes[i] = static_cast<std::uint8_t>(function(i));
    }
    __m512i load() const { return _mm512_load_si512(bytes); }
    __m256i load_half() const { return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes)); }
};

// The entry that is looked up in the i-th word of a vector.
template <const auto& Grid>
constexpr int entry_at(int word) {
    constexpr int together = 8 / Grid.weights;  // entries that become eight bytes
    const int qword = word / 4, place = word % 4;
    return (8 * (place / together) + qword) * together + place % together;
}

// Where the bits of the j-th byte of a 64-bit element start, for the first of the 64 weights that a vector holds.
template <const auto& Grid>
constexpr int first_bit(int j) {
    const int weight = j % Grid.weights;
    return 16 * (j / Grid.weights) + 8 * (weight % 2) + Grid.code_bits * (weight / 2);
}

template <const auto& Grid>
B unpack_entries(__m512i entries, int i, std::uint64_t signs) {
    static constexpr Bytes64 first([](int j) { return first_bit<Grid>(j % 8); });
    const __m512i bits = _mm512_add_epi8(first.load(), _mm512_set1_epi8(static_cast<char>(128 / Grid.weights * i)));
    const __m512i codes = _mm512_multishift_epi64_epi8(bits, entries);
    const __m512i values = _mm512_load_si512(offset_values<Grid>.bytes);
    return negate<Grid>(_mm512_permutexvar_epi8(codes, values), signs);
}

// Seven signs, and as the eighth their parity; the row of a matrix that makes bit i is its byte 7 - i.
inline __m256i eight_signs_of_low(__m256i bytes) {
    return _mm256_gf2p8affine_epi64_epi8(bytes, _mm256_set1_epi64x(0x010204081020407F), 0);
}
inline __m256i eight_signs_of_high(__m256i bytes) {
    return _mm256_gf2p8affine_epi64_epi8(bytes, _mm256_set1_epi64x(0x02040810204080FE), 0);
}
// Words of 32 bits with four times seven signs in the low 28: four bytes of eight signs.
inline __m256i eight_signs_of_seven(__m256i words) {
    static constexpr Bytes64 start([](int j) { return 32 * (j % 8 / 4) + 7 * (j % 4); });
    return eight_signs_of_low(_mm256_multishift_epi64_epi8(start.load_half(), words));
}

// The low byte of each word of an index is a byte of `bytes`, the high one of `high`.
inline __m512i join(const Bytes64& order, __m512i bytes, __m512i high) {
    return _mm512_mask_permutexvar_epi8(high, 0x5555555555555555, order.load(), bytes);
}
inline __m512i join(const Bytes64& order, __m512i bytes) { return join(order, bytes, _mm512_setzero_si512()); }

inline Entries<grids::iq2_xxs> read_iq2_xxs(const std::uint8_t* p) {
    static constexpr Bytes64 order([](int j) {
        const int entry = entry_at<grids::iq2_xxs>(j / 2);
        return 8 * (entry / 4) + entry % 4;
    });
    const __m512i both = _mm512_loadu_si512(p);
    const __m512i odd = _mm512_castsi256_si512(_mm256_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15));
    const __m256i signs = eight_signs_of_seven(_mm512_castsi512_si256(_mm512_permutexvar_epi32(odd, both)));
    return {{look_up<grids::iq2_xxs>(join(order, both))}, Signs(signs)};
}

inline Entries<grids::iq2_xs> read_iq2_xs(const std::uint8_t* p) {
    static constexpr Bytes64 order([](int j) { return 2 * entry_at<grids::iq2_xs>(j / 2) + j % 2; });
    static constexpr Bytes64 high([](int j) { return 2 * (j % 32) + 1; });
    const __m512i words = _mm512_loadu_si512(p);
    const __m256i signs = eight_signs_of_high(_mm512_castsi512_si256(_mm512_permutexvar_epi8(high.load(), words)));
    return {{look_up<grids::iq2_xs>(_mm512_permutexvar_epi8(order.load(), words))}, Signs(signs)};
}

// A super-block of IQ2_S, whose grid does not fit the registers: its entries are loaded.
struct LoadedEntries {
    alignas(64) std::uint16_t index[32];
    Signs signs;

    template <int Half>
    void unpack(B (&q)[2]) const {
        const auto& entries = bytes_of<grids::iq2_s>.entries;
        for (int i = 0; i < 2; ++i) {
            const std::uint16_t* const at = index + 16 * Half + 8 * i;
            const auto four = [&entries](const std::uint16_t* j) {
                return _mm256_set_m128i(two_entries(entries[j[2]], entries[j[3]]),
                                        two_entries(entries[j[0]], entries[j[1]]));
            };
            const __m512i bytes = _mm512_inserti64x4(_mm512_castsi256_si512(four(at)), four(at + 4), 1);
            q[i] = negate<grids::iq2_s>(bytes, signs.of_64[2 * Half + i]);
        }
    }
};

inline LoadedEntries read_iq2_s(const std::uint8_t* p) {
    static constexpr Bytes64 start([](int j) { return 2 * (j / 2); });
    std::int64_t bits;
    std::memcpy(&bits, p + 64, sizeof bits);
    const __m512i two = _mm512_multishift_epi64_epi8(start.load(), _mm512_set1_epi64(bits));
    const __m512i high = _mm512_and_si512(two, _mm512_set1_epi16(0x300));
    LoadedEntries entries{{}, Signs(p + 32)};
    _mm512_store_si512(entries.index, _mm512_or_si512(high, _mm512_cvtepu8_epi16(load_32(p))));
    return entries;
}

inline Entries<grids::iq3_xxs> read_iq3_xxs(const std::uint8_t* p) {
    static constexpr Bytes64 order([](int j) { return entry_at<grids::iq3_xxs>(j / 2); });
    const auto entries = [p](int i) {
        return look_up<grids::iq3_xxs>(join(order, _mm512_castsi256_si512(load_32(p + 32 * i))));
    };
    return {{entries(0), entries(1)}, Signs(eight_signs_of_seven(load_32(p + 64)))};
}

inline Entries<grids::iq3_s> read_iq3_s(const std::uint8_t* p) {
    static constexpr Bytes64 order([](int j) { return entry_at<grids::iq3_s>(j / 2); });
    std::int64_t ninth_bits;
    std::memcpy(&ninth_bits, p + 64, sizeof ninth_bits);
    const auto entries = [p, ninth_bits](int i) {
        // The entries' numbers are also those of their bits. Bits above the ninth do not matter.
        const __m512i number = _mm512_add_epi8(order.load(), _mm512_set1_epi8(static_cast<char>(32 * i)));
        const __m512i high = _mm512_multishift_epi64_epi8(number, _mm512_set1_epi64(ninth_bits));
        return look_up<grids::iq3_s>(join(order, _mm512_castsi256_si512(load_32(p + 32 * i)), high));
    };
    return {{entries(0), entries(1)}, Signs(p + 72)};
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
