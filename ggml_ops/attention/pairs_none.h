// Pairs of integers are not faster than floats: NEON and portable C++.
#pragma once

#include <cstdint>

#include "../simd/vector.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr bool has_pairs = false;
inline constexpr int tile_rows = lanes == 1 ? 6 : 12;  // of the result, in registers

using Sums = I;

inline I rounded(F a) { return truncate(round_even(a)); }
inline Sums no_sums() { return set(std::int32_t{0}); }
inline F to_floats(Sums sums) { return to_float(sums); }
inline Sums dot(Sums sums, F, F) { return sums; }

inline F high_bytes(const std::uint8_t*) { return zero(); }
inline F high_nibbles(const std::uint8_t*, std::int64_t) { return zero(); }
inline F multiply_high(F a, F) { return a; }
inline F pack(F a, F) { return a; }
inline void interleave(F, F, F (&)[2]) {}
inline void in_order(F (&)[2]) {}
inline std::uint16_t largest_magnitude(const std::uint16_t*, std::int64_t) { return 0; }

}  // namespace
}  // namespace attention::SIMD_TARGET
