// The scale and the minimum of a sub-block: x is about scale * l + minimum, with l in 0..nmax.
//
// As make_qkx2_quants and make_qkx3_quants in ggml-quants.c (which agree when weights are given): guess scales, round,
// solve the weighted least squares for that rounding, keep the best. Every guess starts from the minimum kept so far,
// so the steps of one sub-block depend on each other; `Ways` independent sub-blocks are searched in parallel instead.
#pragma once

#include "arithmetic.h"

namespace kquants::SIMD_TARGET {
namespace {

struct ScaleMin {
    F scale;
    F minimum;  // as ggml returns it: negated, not below zero
    F inverse;  // the guess that won, and the minimum that it started from: they give the quants again,
    F from;     // which are rarely needed
    M flat;     // all weights equal: quants are zero
};

struct Steps {
    float rmin;
    float rdelta;
    int count;
};

// Rounds to 0..nmax. Fast is exact while the argument is below 2^22; the other is what ggml does beyond.
template <bool Fast>
F quant(F a, F nmax) {
    if constexpr (Fast) return max(min(round_even(a), nmax), zero());
    else return to_float(max(set(0), min(nearest(a), truncate(nmax))));
}

// One vector for each of the sub-blocks that are searched together. Passed and returned by value: sums behind
// a reference would be stored and loaded again at every addition, because the quants that are written might alias them.
template <int Ways>
struct Each {
    F of[Ways];
};

// The sums of one step: of w l, w l^2 and w l x.
template <int Ways>
struct Moments {
    Each<Ways> l, l2, xl;
};

template <int N, int Ways, bool Fast>
Moments<Ways> step_moments(const F* x, const F* w, Each<Ways> inverse, Each<Ways> low, F nmax, F* l) {
    Moments<Ways> sum;
    for (int k = 0; k < Ways; ++k) sum.l.of[k] = sum.l2.of[k] = sum.xl.of[k] = zero();
    for (int i = 0; i < N; ++i) {
        for (int k = 0; k < Ways; ++k) {
            const int at = k * N + i;
            const F q = quant<Fast>(inverse.of[k] * (x[at] - low.of[k]), nmax);
            l[at] = q;
            const F wl = w[at] * q;
            sum.l.of[k] = sum.l.of[k] + wl;
            sum.l2.of[k] = sum.l2.of[k] + wl * q;
            sum.xl.of[k] = sum.xl.of[k] + wl * x[at];
        }
    }
    return sum;
}

template <int N, int Ways, bool Absolute>
Each<Ways> step_errors(const F* x, const F* w, const F* l, Each<Ways> scale, Each<Ways> low) {
    Each<Ways> error;
    for (int k = 0; k < Ways; ++k) error.of[k] = zero();
    for (int i = 0; i < N; ++i) {
        for (int k = 0; k < Ways; ++k) {
            const int at = k * N + i;
            const F off = scale.of[k] * l[at] + low.of[k] - x[at];
            error.of[k] = error.of[k] + w[at] * (Absolute ? abs(off) : off * off);
        }
    }
    return error;
}

// Is every nearest_int argument of this step within the range where the fast rounding is exact?
inline bool within_range(F inverse, F low, F least, F most, M ignore) {
    const F reach = max(abs(most - low), abs(least - low));
    return !any(!((abs(inverse) * reach < set(4e6F)) | ignore));
}

// x, w: Ways sub-blocks of N vectors. Absolute: weigh |error| instead of its square.
template <int N, int Ways, bool Absolute>
void search_scale_min(const F* x, const F* w, float nmax, Steps steps, ScaleMin (&found)[Ways]) {
    F high[Ways], least[Ways], sum_w[Ways], sum_x[Ways];
    Each<Ways> low, inverse, scale;
    F l[Ways * N];
    for (int k = 0; k < Ways; ++k) {
        const F* xs = x + k * N;
        const F* ws = w + k * N;
        F least_x = xs[0], high_x = xs[0], total_w = ws[0], total_x = ws[0] * xs[0];
        for (int i = 1; i < N; ++i) {
            least_x = min(xs[i], least_x);
            high_x = max(xs[i], high_x);
            total_w = total_w + ws[i];
            total_x = total_x + ws[i] * xs[i];
        }
        least[k] = least_x;
        high[k] = high_x;
        sum_w[k] = total_w;
        sum_x[k] = total_x;
    }
    const F top = set(nmax);
    for (int k = 0; k < Ways; ++k) {
        low.of[k] = clear_if(least[k] > zero(), least[k]);
        inverse.of[k] = top / (high[k] - low.of[k]);
        scale.of[k] = set(1.F) / inverse.of[k];
        found[k].flat = !(high[k] > low.of[k]);
        found[k].from = low.of[k];
        found[k].inverse = inverse.of[k];
    }
    const auto moments = [&] {
        bool fast = true;
        for (int k = 0; k < Ways; ++k) {
            fast &= within_range(inverse.of[k], low.of[k], least[k], high[k], found[k].flat);
        }
        return fast ? step_moments<N, Ways, true>(x, w, inverse, low, top, l)
                    : step_moments<N, Ways, false>(x, w, inverse, low, top, l);
    };
    moments();  // for its quants: the first guess is taken as it is
    Each<Ways> best = step_errors<N, Ways, Absolute>(x, w, l, scale, low);

    for (int step = 0; step <= steps.count; ++step) {
        const F target = set(steps.rmin + steps.rdelta * static_cast<float>(step) + nmax);
        for (int k = 0; k < Ways; ++k) inverse.of[k] = target / (high[k] - low.of[k]);
        const Moments<Ways> sum = moments();

        Each<Ways> new_scale, new_low;
        M solvable[Ways];
        for (int k = 0; k < Ways; ++k) {
            const F s_l = sum.l.of[k], s_l2 = sum.l2.of[k], s_xl = sum.xl.of[k];
            const F determinant = sum_w[k] * s_l2 - s_l * s_l;
            solvable[k] = determinant > zero();
            new_scale.of[k] = (sum_w[k] * s_xl - sum_x[k] * s_l) / determinant;
            new_low.of[k] = (s_l2 * sum_x[k] - s_l * s_xl) / determinant;
            const M positive = new_low.of[k] > zero();
            if (any(positive & solvable[k])) {
                new_low.of[k] = clear_if(positive, new_low.of[k]);
                new_scale.of[k] = select(positive, s_xl / s_l2, new_scale.of[k]);
            }
        }
        const Each<Ways> error = step_errors<N, Ways, Absolute>(x, w, l, new_scale, new_low);
        for (int k = 0; k < Ways; ++k) {
            const M better = (error.of[k] < best.of[k]) & solvable[k];
            found[k].inverse = select(better, inverse.of[k], found[k].inverse);
            found[k].from = select(better, low.of[k], found[k].from);
            best.of[k] = select(better, error.of[k], best.of[k]);
            scale.of[k] = select(better, new_scale.of[k], scale.of[k]);
            low.of[k] = select(better, new_low.of[k], low.of[k]);
        }
    }
    for (int k = 0; k < Ways; ++k) {
        found[k].scale = clear_if(found[k].flat, scale.of[k]);
        found[k].minimum = -low.of[k];
    }
}

// The quant of x that the search ended with.
inline I searched_quant(const ScaleMin& found, F x, int nmax) {
    const I l = clamp(nearest(found.inverse * (x - found.from)), 0, nmax);
    return select(found.flat, set(0), l);
}

// The quants of a sub-block against the decoded scale; where that is zero, those of the search stay.
inline void requantize(const F* x, F scale, F minimum, const ScaleMin& found, int n, int nmax, I* l) {
    const M unscaled = is_zero(scale);
    for (int i = 0; i < n; ++i) l[i] = clamp(nearest((x[i] + minimum) / scale), 0, nmax);
    if (!any(unscaled)) return;
    for (int i = 0; i < n; ++i) l[i] = select(unscaled, searched_quant(found, x[i], nmax), l[i]);
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
