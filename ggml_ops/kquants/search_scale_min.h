// The scale and the minimum of a sub-block: x is about scale * l + minimum, with l in 0..nmax.
//
// As make_qkx2_quants and make_qkx3_quants in ggml-quants.c (which agree when weights are given): guess scales, round,
// solve the weighted least squares for that rounding, keep the best. Every guess starts from the minimum kept so far, so
// the steps of one sub-block depend on each other; `Ways` independent sub-blocks are searched at once instead.

struct ScaleMin {
    F scale;
    F minimum;    // as ggml returns it: negated, not below zero
    F inverse;    // the guess that won, and the minimum that it started from: they give the quants again,
    F from;       // which are rarely needed
    M flat;       // all weights equal: quants are zero
};

struct Steps {
    float rmin;
    float rdelta;
    int count;
};

// The sums of one step.
struct Moments {
    F l, l2, xl;
};

// Rounds to 0..nmax. Fast is exact while the argument is below 2^22; the other is what ggml does beyond.
template <bool Fast>
F quant(F a, float nmax) {
    if constexpr (Fast) return max(min(round_even(a), set(nmax)), zero());
    else return to_float(clamp(nearest(a), 0, static_cast<int>(nmax)));
}

template <int N, int Ways, bool Fast>
void step_moments(const F* x, const F* w, const F (&inverse)[Ways], const F (&low)[Ways], float nmax, F* l,
                  Moments (&sums)[Ways]) {
    for (int k = 0; k < Ways; ++k) sums[k] = {zero(), zero(), zero()};
    for (int i = 0; i < N; ++i) {
        for (int k = 0; k < Ways; ++k) {
            const int at = k * N + i;
            const F q = quant<Fast>(inverse[k] * (x[at] - low[k]), nmax);
            l[at] = q;
            const F wl = w[at] * q;
            sums[k].l = sums[k].l + wl;
            sums[k].l2 = sums[k].l2 + wl * q;
            sums[k].xl = sums[k].xl + wl * x[at];
        }
    }
}

template <int N, int Ways, bool Absolute>
void step_errors(const F* x, const F* w, const F* l, const F (&scale)[Ways], const F (&low)[Ways], F (&error)[Ways]) {
    for (int k = 0; k < Ways; ++k) error[k] = zero();
    for (int i = 0; i < N; ++i) {
        for (int k = 0; k < Ways; ++k) {
            const int at = k * N + i;
            const F off = scale[k] * l[at] + low[k] - x[at];
            error[k] = error[k] + w[at] * (Absolute ? abs(off) : off * off);
        }
    }
}

// Is every nearest_int argument of this step within the range where the fast rounding is exact?
inline bool within_range(F inverse, F low, F least, F most, M ignore) {
    const F reach = max(abs(most - low), abs(least - low));
    return !any(!((abs(inverse) * reach < set(4e6F)) | ignore));
}

// x, w: Ways sub-blocks of N vectors. Absolute: weigh |error| instead of its square.
template <int N, int Ways, bool Absolute>
void search_scale_min(const F* x, const F* w, float nmax, Steps steps, ScaleMin (&found)[Ways]) {
    F low[Ways], high[Ways], least[Ways], sum_w[Ways], sum_x[Ways], inverse[Ways], scale[Ways], best[Ways];
    Moments sums[Ways];
    F l[Ways * N];
    bool fast = true;
    for (int k = 0; k < Ways; ++k) {
        low[k] = high[k] = x[k * N];
        sum_w[k] = w[k * N];
        sum_x[k] = sum_w[k] * x[k * N];
    }
    for (int i = 1; i < N; ++i) {
        for (int k = 0; k < Ways; ++k) {
            const int at = k * N + i;
            low[k] = min(x[at], low[k]);
            high[k] = max(x[at], high[k]);
            sum_w[k] = sum_w[k] + w[at];
            sum_x[k] = sum_x[k] + w[at] * x[at];
        }
    }
    for (int k = 0; k < Ways; ++k) {
        least[k] = low[k];
        low[k] = clear_if(low[k] > zero(), low[k]);
        found[k].flat = !(high[k] > low[k]);
        found[k].from = low[k];
        found[k].inverse = inverse[k] = set(nmax) / (high[k] - low[k]);
        scale[k] = set(1.F) / inverse[k];
        fast &= within_range(inverse[k], low[k], least[k], high[k], found[k].flat);
    }
    for (int i = 0; i < N; ++i) {
        for (int k = 0; k < Ways; ++k) {
            const F a = inverse[k] * (x[k * N + i] - low[k]);
            l[k * N + i] = fast ? quant<true>(a, nmax) : quant<false>(a, nmax);
        }
    }
    step_errors<N, Ways, Absolute>(x, w, l, scale, low, best);

    for (int step = 0; step <= steps.count; ++step) {
        const F target = set(steps.rmin + steps.rdelta * static_cast<float>(step) + nmax);
        fast = true;
        for (int k = 0; k < Ways; ++k) {
            inverse[k] = target / (high[k] - low[k]);
            fast &= within_range(inverse[k], low[k], least[k], high[k], found[k].flat);
        }
        if (fast) step_moments<N, Ways, true>(x, w, inverse, low, nmax, l, sums);
        else step_moments<N, Ways, false>(x, w, inverse, low, nmax, l, sums);

        F new_scale[Ways], new_low[Ways], error[Ways];
        M solvable[Ways];
        for (int k = 0; k < Ways; ++k) {
            const Moments s = sums[k];
            const F determinant = sum_w[k] * s.l2 - s.l * s.l;
            solvable[k] = determinant > zero();
            new_scale[k] = (sum_w[k] * s.xl - sum_x[k] * s.l) / determinant;
            new_low[k] = (s.l2 * sum_x[k] - s.l * s.xl) / determinant;
            const M positive = new_low[k] > zero();
            if (any(positive & solvable[k])) {
                new_low[k] = clear_if(positive, new_low[k]);
                new_scale[k] = select(positive, s.xl / s.l2, new_scale[k]);
            }
        }
        step_errors<N, Ways, Absolute>(x, w, l, new_scale, new_low, error);
        for (int k = 0; k < Ways; ++k) {
            const M better = (error[k] < best[k]) & solvable[k];
            found[k].inverse = select(better, inverse[k], found[k].inverse);
            found[k].from = select(better, low[k], found[k].from);
            best[k] = select(better, error[k], best[k]);
            scale[k] = select(better, new_scale[k], scale[k]);
            low[k] = select(better, new_low[k], low[k]);
        }
    }
    for (int k = 0; k < Ways; ++k) {
        found[k].scale = clear_if(found[k].flat, scale[k]);
        found[k].minimum = -low[k];
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
