// Pairs of integers are not faster than floats: NEON and portable C++.
#pragma once

#include "../simd/vector.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr bool has_pairs = false;
inline constexpr int tile_rows = lanes == 1 ? 6 : 12;  // of the result, in registers

inline I rounded(F a) { return truncate(round_even(a)); }
inline I dot(I sum, I, I) { return sum; }

}  // namespace
}  // namespace attention::SIMD_TARGET
