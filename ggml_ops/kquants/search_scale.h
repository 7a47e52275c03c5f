// The scale of a sub-block without a minimum: x is about scale * l, with l in -nmax..nmax-1.
//
// search_scale is make_qx_quants of ggml-quants.c with rmse_type 1: nineteen guesses that do not depend on each other.
// search_scale_by_moves is its make_q3_quants: one guess, then quants move one at a time while that helps.
#pragma once

#include "arithmetic.h"

namespace kquants::SIMD_TARGET {
namespace {

inline constexpr float group_max_eps = 1e-15F;  // below it a group counts as zero

struct Scale {
    F scale;
    F inverse;  // the guess that won; gives the quants again
    M empty;    // all weights (nearly) zero: quants are zero
};

struct Extreme {
    F value;  // the first weight of the largest magnitude, with its sign
    F magnitude;
};

template <int N>
Extreme extreme(const F* x) {
    Extreme e = {zero(), zero()};
    for (int i = 0; i < N; ++i) {
        const F magnitude = abs(x[i]);
        const M larger = magnitude > e.magnitude;
        e = {select(larger, x[i], e.value), select(larger, magnitude, e.magnitude)};
    }
    return e;
}

template <bool Fast>
F signed_quant(F a, int nmax) {
    const auto top = static_cast<float>(nmax - 1);
    const auto bottom = static_cast<float>(-nmax);
    if constexpr (Fast) return max(min(round_even(a), set(top)), set(bottom));
    else return to_float(clamp(nearest(a), -nmax, nmax - 1));
}

// The sums of w x l and w l^2 for several guesses. By value: see Each in search_scale_min.h.
template <int Guesses>
struct Fits {
    F lx[Guesses], l2[Guesses];
};
template <int Guesses>
struct Inverses {
    F of[Guesses];
};

// Fast: the weights are finite, so that |inverse * x| <= nmax + 1.
template <int N, int Guesses, bool Fast>
Fits<Guesses> try_scales(const F* x, const F* w, const F* wx, Inverses<Guesses> inverse, int nmax) {
    Fits<Guesses> sum;
    for (int k = 0; k < Guesses; ++k) sum.lx[k] = sum.l2[k] = zero();
    for (int i = 0; i < N; ++i) {
        for (int k = 0; k < Guesses; ++k) {
            const F l = signed_quant<Fast>(inverse.of[k] * x[i], nmax);
            sum.lx[k] = sum.lx[k] + wx[i] * l;
            sum.l2[k] = sum.l2[k] + w[i] * l * l;
        }
    }
    return sum;
}

template <int N, bool Fast>
Scale search_scale(const F* x, const F* w, int nmax) {
    constexpr int guesses = 3;
    F wx[N];
    for (int i = 0; i < N; ++i) wx[i] = w[i] * x[i];
    const Extreme e = extreme<N>(x);
    Scale found;
    found.empty = e.magnitude < set(group_max_eps);
    found.inverse = set(static_cast<float>(-nmax)) / e.value;
    const Fits<1> first = try_scales<N, 1, Fast>(x, w, wx, {{found.inverse}}, nmax);
    found.scale = clear_if(is_zero(first.l2[0]), first.lx[0] / first.l2[0]);
    F best = found.scale * first.lx[0];
    for (int is = -9; is <= 9; is += guesses) {
        if (is == 0) ++is;
        Inverses<guesses> inverse;
        for (int k = 0; k < guesses; ++k) {
            inverse.of[k] = set(-(static_cast<float>(nmax) + 0.1F * static_cast<float>(is + k))) / e.value;
        }
        const Fits<guesses> fit = try_scales<N, guesses, Fast>(x, w, wx, inverse, nmax);
        for (int k = 0; k < guesses; ++k) {
            const M better = (fit.l2[k] > zero()) & (fit.lx[k] * fit.lx[k] > best * fit.l2[k]);
            if (any(better)) {
                const F scale = fit.lx[k] / fit.l2[k];
                found.scale = select(better, scale, found.scale);
                best = select(better, scale * fit.lx[k], best);
                found.inverse = select(better, inverse.of[k], found.inverse);
            }
        }
    }
    found.scale = clear_if(found.empty, found.scale);
    return found;
}

// The quant of x that the search ended with, from 0 to 2 nmax - 1.
inline I searched_quant(const Scale& found, F x, int nmax) {
    const I l = clamp(nearest(found.inverse * x), -nmax, nmax - 1) + set(nmax);
    return select(found.empty, set(0), l);
}

// Ways sub-blocks in parallel, because each move depends on the one before. l becomes the quants, from 0 to 2 nmax - 1.
template <int N, int Ways>
void search_scale_by_moves(const F* x, int nmax, F (&scale)[Ways], F* l) {
    F w[Ways * N], wx[Ways * N], sum_lx[Ways], sum_l2[Ways];
    M empty[Ways];
    for (int k = 0; k < Ways; ++k) {
        const Extreme e = extreme<N>(x + k * N);
        empty[k] = e.magnitude < set(group_max_eps);
        const F inverse = set(static_cast<float>(-nmax)) / e.value;
        sum_lx[k] = sum_l2[k] = zero();
        for (int at = k * N; at < (k + 1) * N; ++at) {
            w[at] = x[at] * x[at];
            wx[at] = w[at] * x[at];
            l[at] = signed_quant<true>(inverse * x[at], nmax);
            sum_lx[k] = sum_lx[k] + wx[at] * l[at];
            sum_l2[k] = sum_l2[k] + w[at] * l[at] * l[at];
        }
    }
    // A sub-block that a round does not change stays unchanged: repeat until no quant of any sub-block moves.
    bool moved = true;
    for (int round = 0; round < 5 && moved; ++round) {
        moved = false;
        for (int i = 0; i < N; ++i) {
            for (int k = 0; k < Ways; ++k) {
                const int at = k * N + i;
                const F lx = sum_lx[k] - wx[at] * l[at];
                const F l2 = sum_l2[k] - w[at] * l[at] * l[at];
                const F q = to_float(clamp(nearest(x[at] * l2 / lx), -nmax, nmax - 1));
                const F new_lx = lx + wx[at] * q;
                const F new_l2 = l2 + w[at] * q * q;
                const M better = (lx > zero()) & !(q == l[at]) & (new_l2 > zero()) &
                                 (new_lx * new_lx * sum_l2[k] > sum_lx[k] * sum_lx[k] * new_l2) & !empty[k];
                l[at] = select(better, q, l[at]);
                sum_lx[k] = select(better, new_lx, sum_lx[k]);
                sum_l2[k] = select(better, new_l2, sum_l2[k]);
                moved |= any(better);
            }
        }
    }
    for (int k = 0; k < Ways; ++k) {
        scale[k] = select((sum_l2[k] > zero()) & !empty[k], sum_lx[k] / sum_l2[k], zero());
        for (int at = k * N; at < (k + 1) * N; ++at) l[at] = clear_if(empty[k], l[at] + set(static_cast<float>(nmax)));
    }
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
