// Formats in plain C++, for targets other than x86: a super-block becomes signed bytes, scales and mins in memory, by
// loops that compilers turn into the vectors of the target.
//
//   weight = scale * byte - minimum          scale, minimum: one for `values_per_scale` weights
//
// A layout, in a header of each format, has
//   format, values_per_scale, has_mins
//   decode(p, block)           the super-block at p; mins only if it has any
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_portable.h"
#endif

#include <cstdint>
#include <cstring>

#include "../../simd/scalar.h"
#include "../activations.h"
#include "../bytes.h"
#include "../format_table.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct Block {
    alignas(64) std::int8_t q[super_block];
    float scales[super_block / 16];
    float mins[super_block / 16];
};

inline std::uint16_t word_at(const std::uint8_t* p) { return static_cast<std::uint16_t>(p[0] | p[1] << 8); }
inline std::uint32_t long_word_at(const std::uint8_t* p) { return word_at(p) | std::uint32_t{word_at(p + 2)} << 16; }
inline float fp16_at(const std::uint8_t* p) { return fp16_to_float(word_at(p)); }

template <class Layout>
constexpr int scale_count = static_cast<int>(super_block) / Layout::values_per_scale;

// Decodes the b-th super-block of a row of k weights. An incomplete one is made complete with zeros.
template <class Layout>
void decode_block(const std::uint8_t* row, std::int64_t k, std::int64_t b, Block& block) {
    constexpr FormatRow format = row_of(Layout::format);
    constexpr std::int64_t bytes = super_block / format.block * format.block_bytes;
    const std::int64_t left = k / format.block * format.block_bytes - b * bytes;
    if (left >= bytes) return Layout::decode(row + b * bytes, block);
    std::uint8_t padded[bytes] = {};
    std::memcpy(padded, row + b * bytes, static_cast<std::size_t>(left));
    Layout::decode(padded, block);
}

// A super-block of a column: what its values are multiplied by, and what corrects for mins.
template <class Layout>
struct ColumnBlock {
    static constexpr Activations kind = row_of(Layout::format).activations;
    static constexpr bool scale_of_32 = kind != Activations::q8_k;
    static constexpr int count = scale_count<Layout>;

    const std::uint8_t* column;
    const ColumnParts<kind>& parts;
    std::int64_t block;

    const std::uint8_t* q() const { return column + block * super_block; }
    // Of the values of the j-th scale of the weights.
    float scale(int j) const { return at<float>(column, parts.scales)[scale_of_32 ? block * 8 + j : block]; }
    // Of these values times their scale.
    float minus_sum(int j) const {
        if constexpr (scale_of_32) {
            return at<float>(column, parts.minus_sums)[block * 8 + j];
        } else {
            const std::int64_t sums = count == 16 ? parts.minus_sums_of_16 : parts.minus_sums_of_32;
            return scale(j) * static_cast<float>(at<std::int16_t>(column, sums)[block * count + j]);
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
