// What GEMV and GEMM share: which dot a format takes, and rows that end within a super-block.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "activations.h"
#include "bytes.h"
#include "formats/all.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

template <class Weights>
inline I dot_of(I sum, B a, B b) {
    if constexpr (Weights::narrow) return dot(sum, a, b);
    return dot_wide(sum, a, b);
}

// Up to how many bytes the dot products fit 16 bits.
template <class Weights>
constexpr int values_in_words() {
    constexpr int limit = 32767 / (2 * 127 * Weights::most) * 4;
    return limit >= 32 ? 32 : limit >= 16 ? 16 : limit >= 8 ? 8 : 4;
}

// Where the i-th value of a super-block is in a column: the sum of what a group's first value and the offset within the
// group have.
template <class Weights>
constexpr int column_offset(int i) {
    return arranged_offset<activations_of<Weights>>(i);
}

// Of a power of two.
constexpr int log2_of(int power) { return power == 1 ? 0 : 1 + log2_of(power / 2); }

// Whether a row may have fewer weights than its super-blocks.
template <class Weights>
inline constexpr bool may_end_early = row_of(Weights::format).block < super_block;

// The last super-block of a row of k weights; missing blocks are zeros, and so are their weights.
template <class Weights>
struct LastBlock {
    std::uint8_t bytes[super_block_bytes<Weights>()] = {};

    LastBlock(const std::uint8_t* row, std::int64_t k) {
        constexpr FormatRow format = row_of(Weights::format);
        const std::int64_t full = k / super_block;
        const auto size = static_cast<std::size_t>((k - full * super_block) / format.block * format.block_bytes);
        std::memcpy(bytes, row + full * super_block_bytes<Weights>(), size);
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
