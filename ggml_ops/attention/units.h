// What the matmuls of large blocks multiply: units of 32 bits, which are a float or a pair of 16-bit integers.
//
// Pairs have twice the rate of floats. A row of keys, values or queries gets a scale of its own, so that its integers
// have 13 to 16 bits: their rounding errors are those of FP16. No sum overflows:
//   q . k     a row is scaled to the norm 32767; by Cauchy and Schwarz a sum is at most 32767^2 < 2^31
//   p . v     |v| <= 4095, and the p of a row of the tile sum up to at most 2^19
#pragma once

#include <cstdint>

#include "../simd/repeat.h"
#include "../simd/vector.h"

#if !defined(ATTENTION_PAIRS)
#define ATTENTION_PAIRS "pairs_none.h"
#endif

#include ATTENTION_PAIRS

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr int tile_vectors = 2;
inline constexpr int tile_width = tile_vectors * lanes;

struct Floats {
    static constexpr bool pairs = false;
    static constexpr int elements = 1;  // of a unit
    using Sum = F;
    static Sum none() { return zero(); }
    static Sum dot_add(Sum sum, F a, F b) { return fma(a, b, sum); }
    static F floats(Sum a) { return a; }
};

struct Pairs {
    static constexpr bool pairs = true;
    static constexpr int elements = 2;
    using Sum = Sums;
    static Sum none() { return no_sums(); }
    static Sum dot_add(Sum sum, F a, F b) { return dot(sum, a, b); }
    static F floats(Sum a) { return to_floats(a); }
};

inline constexpr float norm_limit = 32767.F;
inline constexpr float value_limit = 4095.F;
inline constexpr float weight_limit = 32767.F;
inline constexpr float weight_sum_limit = 524288.F * 0.999F;  // below 2^31 / value_limit, with room for the roundings

// The integers nearest to a and b, at most 32767 in magnitude, as the low and the high half of each lane.
inline F pair_up(F a, F b) { return from_bits((rounded(a) & set(0xFFFF)) | shift_left<16>(rounded(b))); }

// Units of a row of `size` elements. Element i of a chunk of 2 * lanes pairs with element i + lanes, so that a chunk of
// t < lanes elements needs t units.
template <class Unit>
constexpr std::int64_t units_of(std::int64_t size) {
    if constexpr (!Unit::pairs) return size;
    const std::int64_t rest = size % (2 * lanes);
    return size / (2 * lanes) * lanes + (rest < lanes ? rest : lanes);
}

// sum = a b over some units: a is read at a[row * RowStep + unit * UnitStep], b has `Vectors` vectors for each unit.
template <class Unit, int Rows, int Vectors, int RowStep, int UnitStep>
inline void multiply(const float* a, const float* b, std::int64_t units, typename Unit::Sum (&sum)[Rows][Vectors]) {
    repeat<Rows>([&](auto r) { repeat<Vectors>([&](auto v) { sum[r][v] = Unit::none(); }); });
    for (std::int64_t u = 0; u < units; ++u) {
        F w[Vectors];
        repeat<Vectors>([&](auto v) { w[v] = load(b + (u * Vectors + v) * lanes); });
        repeat<Rows>([&](auto r) {
            const F x = set(a[r * RowStep + u * UnitStep]);
            repeat<Vectors>([&](auto v) { sum[r][v] = Unit::dot_add(sum[r][v], x, w[v]); });
        });
    }
}

}  // namespace
}  // namespace attention::SIMD_TARGET
