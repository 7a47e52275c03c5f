// A super-block of IQ2 or IQ3 whose entries were looked up in registers, as words of 16 bits.
#pragma once

#include <immintrin.h>
#include <cstdint>

#include "../bytes_avx512.h"
#include "look_up_avx512.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Of 32 entries, those for the i-th 64 weights as bytes, with signs: bit j negates the j-th. A target has its own way.
template <const auto& Grid>
B unpack_entries(__m512i entries, int i, std::uint64_t signs);

// A super-block: entries, 32 to a vector, and signs.
template <const auto& Grid>
struct Entries {
    static constexpr int count = 8 / Grid.weights;  // of vectors
    __m512i entries[count];
    Signs signs;

    template <int Half>
    void unpack(B (&q)[2]) const {
        for (int i = 0; i < 2; ++i) {
            const __m512i from = entries[count == 2 ? Half : 0];
            q[i] = unpack_entries<Grid>(from, count == 2 ? i : 2 * Half + i, signs.of_64[2 * Half + i]);
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
