// From the scores of a row in a tile to the weights of its values: one step of the online softmax.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../simd/exponential.h"
#include "../simd/vector.h"
#include "attention.h"
#include "state.h"
#include "units.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline F soft_capped(F score, float cap) {
    const F twice = exponential(score * set(2.F / cap));
    return set(cap) * (set(1.F) - set(2.F) / (twice + set(1.F)));
}

// Caps the scores and adds the bias (null: none); returns the largest score.
inline float add_bias(float* scores, std::int64_t width, const float* bias, float slope, float cap) {
    F most = set(-infinity);
    for (std::int64_t j = 0; j < width; j += lanes) {
        F s = load(scores + j);
        if (cap != 0) s = soft_capped(s, cap);
        if (bias != nullptr) {
            const F b = load(bias + j) * set(slope);
            s = select(b == set(-infinity), b, s + b);  // whatever is behind the mask: NaN too
        }
        if (cap != 0 || bias != nullptr) store(scores + j, s);
        most = max(most, s);
    }
    return largest(most);
}

// What becomes of a row in a tile: its old values times `old_factor`, plus the new ones times `new_factor`.
struct Factors {
    float old_factor, new_factor;
};

// Changes the scores to weights, in units for the matmul with the values. Pairs: value_scales are the scales of the
// values, which the weights are multiplied by.
template <class Unit>
inline Factors weigh(float* scores, std::int64_t width, float most, const float* value_scales, float& largest_score,
                     float& sum_of_row, float* weights) {
    const float before = largest_score;
    largest_score = std::max(before, most);
    if (largest_score == -infinity) {
        std::fill(weights, weights + width / Unit::elements, 0.F);
        return {1.F, 0.F};
    }
    const float old_factor = before == largest_score ? 1.F : std::exp(before - largest_score);
    const F top = set(largest_score);
    F total = zero(), scaled_total = zero(), scaled_most = zero();
    for (std::int64_t j = 0; j < width; j += lanes) {
        const F p = exponential_of_negative(load(scores + j) - top);
        total = total + p;
        if constexpr (Unit::pairs) {
            // Values that are not finite have a scale that is not: they do not matter behind a mask.
            const F scaled = select(p == zero(), p, p * load(value_scales + j));
            scaled_total = scaled_total + scaled;
            scaled_most = max(scaled_most, scaled);
            store(scores + j, scaled);
        } else {
            store(weights + j, p);
        }
    }
    float sums_of_tile[4];
    sums({total, scaled_total, zero(), zero()}, sums_of_tile);
    sum_of_row = sum_of_row * old_factor + sums_of_tile[0];
    if constexpr (Unit::pairs) {
        const float scaled_sum = sums_of_tile[1];
        const float factor = std::min(weight_limit / largest(scaled_most), weight_sum_limit / scaled_sum);
        const F to_integers = set(scaled_sum == 0 ? 0.F : factor);
        for (std::int64_t j = 0; j < width; j += 2 * lanes) {
            store(weights + j / 2, pair_up(load(scores + j) * to_integers, load(scores + j + lanes) * to_integers));
        }
        // A sum that is not finite must not be lost.
        return {old_factor, scaled_sum == 0 ? 0.F : (scaled_sum - scaled_sum) + 1.F / factor};
    }
    return {old_factor, 1.F};
}

}  // namespace
}  // namespace attention::SIMD_TARGET
