// A quantized column: its 8-bit values, and sums of them, which correct for mins and for bytes that are made unsigned.
// All formats with the same activations share one layout, so that a column can be reused for the next matrix.
#pragma once

#include <cstdint>

#include "format_table.h"

namespace quantized_matmul {
namespace {

constexpr std::int64_t blocks_of(std::int64_t k) { return (k + super_block - 1) / super_block; }

// Where the parts of a column start, in bytes, and where it ends. `k` is the number of values, padded with zeros to
// whole super-blocks.
//
// One scale for 32 values; `minus_sums`, which correct for mins, in Q8_1 only.
template <Activations Kind>
struct ColumnParts {
    std::int64_t starts_of_32;  // int32: -128 times the sums
    std::int64_t scales;        // float
    std::int64_t minus_sums;    // float: the sums times the scales before these are rounded, negated, rounded to FP16
    std::int64_t end;

    explicit constexpr ColumnParts(std::int64_t columns_k)
        : starts_of_32(blocks_of(columns_k) * super_block),
          scales(starts_of_32 + blocks_of(columns_k) * 8 * 4),
          minus_sums(scales + blocks_of(columns_k) * 8 * 4),
          end(minus_sums + (Kind == Activations::q8_1 ? blocks_of(columns_k) * 8 * 4 : 0)) {}
};

// One scale for 256 values.
template <>
struct ColumnParts<Activations::q8_k> {
    std::int64_t minus_sums_of_16, minus_sums_of_32;         // int16: the sums of the values, negated
    std::int64_t starts_of_16, starts_of_32, starts_of_256;  // int32: -128 times the sums
    std::int64_t scales;                                     // float
    std::int64_t end;

    explicit constexpr ColumnParts(std::int64_t columns_k)
        : minus_sums_of_16(blocks_of(columns_k) * super_block),
          minus_sums_of_32(minus_sums_of_16 + blocks_of(columns_k) * 16 * 2),
          starts_of_16(minus_sums_of_32 + blocks_of(columns_k) * 8 * 2),
          starts_of_32(starts_of_16 + blocks_of(columns_k) * 16 * 4),
          starts_of_256(starts_of_32 + blocks_of(columns_k) * 8 * 4),
          scales(starts_of_256 + blocks_of(columns_k) * 4),
          end(scales + blocks_of(columns_k) * 4) {}
};

template <class T>
const T* at(const std::uint8_t* column, std::int64_t offset) {
    return reinterpret_cast<const T*>(column + offset);
}

}  // namespace
}  // namespace quantized_matmul
