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

}  // namespace
}  // namespace quantized_matmul
