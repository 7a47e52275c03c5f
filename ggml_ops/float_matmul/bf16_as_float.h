// BF16 weights as floats, for processors without dot products of BF16. See elements.h.
#pragma once

#include <cstdint>

#include "single_elements.h"

namespace float_matmul::SIMD_TARGET {
namespace {

// To the nearest BF16, ties to even; NaN stays NaN.
inline F round_to_bf16(F a) {
    const I all = bits(a);
    const I odd = shift_right<16>(all) & set(std::int32_t{1});
    const F rounded = from_bits((all + odd + set(std::int32_t{0x7FFF})) & set(std::int32_t{-0x10000}));
    return select(a == a, rounded, a);
}

struct Bf16Elements : F32Elements {
    using Weight = BFloat16;
    static F load(const Weight* p) { return simd::load(p); }
    static F round(const float* p) { return round_to_bf16(simd::load(p)); }
};

}  // namespace
}  // namespace float_matmul::SIMD_TARGET
