// Everything that is compiled once for each target. A target's source file defines KQUANTS_TARGET and SIMD_VECTOR (see
// vector.h) and includes this. All of it lives in the namespace of the target, so that no function is shared between files
// with different compiler flags. One super-block is in each lane of a vector.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kquants.h"

namespace kquants::KQUANTS_TARGET {
namespace {

#include "../simd/vector.h"

inline M is_zero(F a) { return a == zero(); }
inline F clear_if(M m, F a) { return select(m, zero(), a); }
inline F inverse_or_zero(F d) { return clear_if(is_zero(d), set(1.F) / d); }

// ggml's nearest_int, for any argument: beyond 2^22 its result is what the bits of the sum happen to be.
inline I nearest(F a) {
    return (bits(a + set(12582912.F)) & set(0x007FFFFF)) - set(0x00400000);
}
inline I clamp(I a, int low, int high) { return max(set(low), min(a, set(high))); }
inline I byte(I a) { return a & set(0xFF); }

#include "tile.h"

#include "search_scale.h"
#include "search_scale_min.h"
#include "search_positive.h"

#include "two_bits.h"
#include "scales_6bit.h"
#include "q2_k.h"
#include "q3_k.h"
#include "q4_k.h"
#include "q5_k.h"
#include "q6_k.h"
#include "iq4.h"
#include "q8_0.h"
#include "block_weights.h"
#include "q4_0.h"
#include "q4_1.h"
#include "q5_0.h"
#include "q5_1.h"

#include "non_finite.h"

constexpr Format formats[] = {
    {"Q2_K", 256, 84, pack_q2_k},      {"Q3_K", 256, 110, pack_q3_k},   {"Q4_K", 256, 144, pack_q4_k},
    {"Q5_K", 256, 176, pack_q5_k},     {"Q6_K", 256, 210, pack_q6_k},   {"IQ4_XS", 256, 136, pack_iq4_xs},
    {"IQ4_NL", 32, 18, pack_iq4_nl},   {"Q8_0", 32, 34, pack_q8_0},     {"Q4_0", 32, 18, pack_q4_0},
    {"Q4_1", 32, 20, pack_q4_1},       {"Q5_0", 32, 22, pack_q5_0},     {"Q5_1", 32, 24, pack_q5_1},
};

}  // namespace
}  // namespace kquants::KQUANTS_TARGET
