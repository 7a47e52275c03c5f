// exp of the elements of a vector, for targets with fused multiply-adds.
#pragma once

#include <initializer_list>

#include "vector.h"

namespace simd {
namespace {

// exp(a), to about a unit in the last place; clamped to 2^-126 .. 2^127.
inline F exponential(F a) {
    const F limited = min(max(a, set(-126.F * 0.6931472F)), set(127.F * 0.6931472F));
    const F n = round_even(limited * set(1.44269504F));
    // ln 2 in two parts, so that multiplying by the first, which has nine bits, is exact.
    const F x = fma(n, set(2.12194440e-4F), fma(n, set(-0.693359375F), limited));
    F p = set(1.F / 5040.F);
    for (const float coefficient : {1.F / 720.F, 1.F / 120.F, 1.F / 24.F, 1.F / 6.F, 0.5F, 1.F, 1.F}) {
        p = fma(p, x, set(coefficient));
    }
    return p * from_bits(shift_left<23>(truncate(n) + set(127)));
}

// exp(a) for a decay: zero where it is less than a normal number.
inline F decay_of(F a) { return select(a < set(-87.F), zero(), exponential(a)); }

// exp(a) for a <= 0, to about 2 units in the last place: zero where it is less than a normal number, NaN for NaN.
inline F exponential_of_negative(F a) {
    const F n = round_even(a * set(1.44269504F));
    const F x = fma(n, set(2.12194440e-4F), fma(n, set(-0.693359375F), a));
    F p = set(1.F / 720.F);
    for (const float coefficient : {1.F / 120.F, 1.F / 24.F, 1.F / 6.F, 0.5F, 1.F, 1.F}) {
        p = fma(p, x, set(coefficient));
    }
    return select(a < set(-87.F), zero(), p * from_bits(shift_left<23>(truncate(n) + set(127))));
}

}  // namespace
}  // namespace simd
