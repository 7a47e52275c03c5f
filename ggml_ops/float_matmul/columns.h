// Activation columns as the kernels read them: rounded to the type of the weights, then zeros up to a whole cache line.
#pragma once

#include <algorithm>
#include <cstdint>

#include "elements.h"

namespace float_matmul::SIMD_TARGET {
namespace {

// An odd number of cache lines, so that a tile of columns is not mapped to the same few sets of the cache.
std::size_t column_bytes(Format format, std::int64_t k) {
    return for_format(format, [k](auto elements) {
        const auto bytes = static_cast<std::size_t>(elements_of<decltype(elements)>(k)) * sizeof(float);
        return ((bytes + 63) / 64 | 1) * 64;
    });
}

template <class Elements>
void convert_piece(const float* x, float* out) {
    constexpr int step = lanes * Elements::values;
    for (int i = 0; i < convert_values; i += step) store(out + i / Elements::values, Elements::round(x + i));
}

void convert(Format format, std::int64_t k, const float* x, std::int64_t first, std::int64_t last,
             std::uint8_t* column) {
    for_format(format, [=](auto elements) {
        using Elements = decltype(elements);
        for (std::int64_t p = first; p < last; ++p) {
            const std::int64_t at = p * convert_values;
            float* const out = reinterpret_cast<float*>(column) + at / Elements::values;
            if (k - at >= convert_values) {
                convert_piece<Elements>(x + at, out);
                continue;
            }
            float values[convert_values] = {}, elements_of_them[convert_values];
            std::copy(x + at, x + k, values);
            convert_piece<Elements>(values, elements_of_them);
            // Up to the next whole cache line: GEMV reads full vectors.
            const std::int64_t count = (elements_of<Elements>(k - at) + floats_per_line - 1) / floats_per_line;
            std::copy_n(elements_of_them, count * floats_per_line, out);
        }
    });
}

}  // namespace
}  // namespace float_matmul::SIMD_TARGET
