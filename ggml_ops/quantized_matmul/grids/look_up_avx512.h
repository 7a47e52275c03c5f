// Grids in registers of AVX-512: 32 entries are looked up in parallel. Signs are masks.
#pragma once

#include <immintrin.h>
#include <cstdint>
#include <cstring>

#include "../bytes_avx512.h"
#include "tables.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Entries First <= i < First + Count of a grid, for 32 words whose low bits are i - First. Two registers hold 64
// entries; the next bit chooses between two halves.
template <const auto& Grid, int First = 0, int Count = Grid.size>
__m512i look_up(__m512i index) {
    if constexpr (Count == 64) {
        return _mm512_permutex2var_epi16(_mm512_load_si512(Grid.entries + First), index,
                                         _mm512_load_si512(Grid.entries + First + 32));
    } else {
        const __m512i low = look_up<Grid, First, Count / 2>(index);
        const __m512i high = look_up<Grid, First + Count / 2, Count / 2>(index);
        return _mm512_mask_blend_epi16(_mm512_test_epi16_mask(index, _mm512_set1_epi16(Count / 2)), low, high);
    }
}

// The values of a grid plus its offset, for a look-up of codes; bits above those of a code do not matter.
template <const auto& Grid>
struct OffsetValues {
    alignas(64) std::uint8_t bytes[64] = {};
    constexpr OffsetValues() {
        for (int i = 0; i < 64; ++i) {
            bytes[i] = static_cast<std::uint8_t>(Grid.values[i % (1 << Grid.code_bits) % Grid.count] + Grid.offset());
        }
    }
};
template <const auto& Grid>
inline constexpr OffsetValues<Grid> offset_values;

// Eight signs of each byte, those of 64 weights a word: masks are loaded from memory faster than from registers.
struct Signs {
    alignas(32) std::uint64_t of_64[4];

    explicit Signs(const std::uint8_t* p) { std::memcpy(of_64, p, sizeof of_64); }
    explicit Signs(__m256i signs) { _mm256_store_si256(reinterpret_cast<__m256i*>(of_64), signs); }
};

// Bytes above the weights by the grid's offset: those that a mask names become -(byte - offset) + offset.
template <const auto& Grid>
B negate(__m512i bytes, std::uint64_t signs) {
    return {_mm512_mask_sub_epi8(bytes, signs, _mm512_set1_epi8(2 * Grid.offset()), bytes)};
}

inline __m256i load_32(const std::uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
