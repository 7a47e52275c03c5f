// What the quantizers add to the vectors: ggml's rounding to integers, and division that leaves zero at zero.
#pragma once

#include <cstdint>

#include "../simd/vector.h"

namespace kquants::SIMD_TARGET {
namespace {

using namespace simd;

inline M is_zero(F a) { return a == zero(); }
inline F clear_if(M m, F a) { return select(m, zero(), a); }
inline F inverse_or_zero(F d) { return clear_if(is_zero(d), set(1.F) / d); }

// ggml's nearest_int, for any argument: beyond 2^22 its result is what the bits of the sum happen to be.
inline I nearest(F a) { return (bits(a + set(12582912.F)) & set(0x007FFFFF)) - set(0x00400000); }
inline I clamp(I a, int low, int high) { return max(set(low), min(a, set(high))); }
inline I byte(I a) { return a & set(0xFF); }

}  // namespace
}  // namespace kquants::SIMD_TARGET
