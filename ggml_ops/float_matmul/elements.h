// What a format is inside a kernel: 32-bit elements, which are a float, or two BF16 values where the processor has dot
// products of them. A kernel needs from an element type
//   Weight                a weight as the file has it
//   values                weights of one element
//   load(p)               `lanes` elements of a row
//   multiply(w, x, sum)   the sum plus w times x, element by element
//   round(p)              `lanes` * values activations as elements
// A vector of elements is an F, whatever its bits mean: they are only loaded, transposed and broadcast.
// The source file of a target may define FLOAT_MATMUL_BF16, the header of its Bf16Elements.
#pragma once

#include <cstdint>

#if !defined(FLOAT_MATMUL_BF16)
#define FLOAT_MATMUL_BF16 "bf16_as_float.h"
#endif

#include FLOAT_MATMUL_BF16
#include "float_matmul.h"
#include "single_elements.h"

namespace float_matmul::SIMD_TARGET {
namespace {

// Calls work(elements of the format).
template <class Work>
auto for_format(Format format, const Work& work) {
    switch (format) {
        case Format::f16: return work(F16Elements{});
        case Format::bf16: return work(Bf16Elements{});
        default: return work(F32Elements{});
    }
}

// Elements of k values.
template <class Elements>
constexpr std::int64_t elements_of(std::int64_t k) {
    return (k + Elements::values - 1) / Elements::values;
}

// The last elements of a row, of `values` weights, and zeros behind them.
template <class Elements>
F load_last(const typename Elements::Weight* p, std::int64_t values) {
    typename Elements::Weight last[lanes * Elements::values] = {};
    for (std::int64_t i = 0; i < values; ++i) last[i] = p[i];
    return Elements::load(last);
}

}  // namespace
}  // namespace float_matmul::SIMD_TARGET
