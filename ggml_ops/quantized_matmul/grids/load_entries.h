// Grids as tables of bytes in the cache of level 1, whose entries are loaded one by one.
#pragma once

#include <immintrin.h>
#include <cstdint>

#include "tables.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// A grid as bytes, with the offset.
template <const auto& Grid>
struct BytesOf {
    alignas(64) std::uint8_t entries[Grid.size][Grid.weights] = {};
    constexpr BytesOf() {
        for (int i = 0; i < Grid.size; ++i) {
            for (int j = 0; j < Grid.weights; ++j) {
                entries[i][j] = static_cast<std::uint8_t>(Grid.magnitude(i, j) + Grid.offset());
            }
        }
    }
};

template <const auto& Grid>
inline constexpr BytesOf<Grid> bytes_of;

// Two entries of eight weights.
inline __m128i two_entries(const std::uint8_t* low, const std::uint8_t* high) {
    const __m128 first = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(low)));
    return _mm_castps_si128(_mm_loadh_pi(first, reinterpret_cast<const __m64*>(high)));
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
