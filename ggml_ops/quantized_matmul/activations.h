// A quantized column: k 8-bit values, their sums over 32 and over 16 of them (times the column's scale), the scales.
// All formats with the same activations share one layout, so that a column can be reused for the next matrix.
#pragma once

#include <cstdint>

#include "quantized_matmul.h"

namespace quantized_matmul {
namespace {

constexpr std::int64_t floats_bytes(std::int64_t count) { return count * static_cast<std::int64_t>(sizeof(float)); }
constexpr std::int64_t sums_offset(std::int64_t k, std::int64_t values_per_sum) {
    return values_per_sum == 32 ? k : k + floats_bytes(k / 32);
}
constexpr std::int64_t scales_offset(std::int64_t k) { return sums_offset(k, 16) + floats_bytes(k / 16); }

// The offsets of a super-block in a column, in bytes.
struct ColumnOffsets {
    std::int64_t q, sums, scale;
};

template <class Weights>
ColumnOffsets offsets_of(std::int64_t k, std::int64_t block) {
    constexpr std::int64_t sums = super_block / Weights::values_per_scale;
    constexpr std::int64_t scales = row_of(Weights::format).activations == Activations::q8_0 ? 8 : 1;
    return {block * super_block, sums_offset(k, Weights::values_per_scale) + floats_bytes(block * sums),
            scales_offset(k) + floats_bytes(block * scales)};
}

inline const float* floats_at(const std::uint8_t* column, std::int64_t offset) {
    return reinterpret_cast<const float*>(column + offset);
}

}  // namespace
}  // namespace quantized_matmul
