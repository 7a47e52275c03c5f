// The scale of the scales: x >= 0 is about scale * l, with l in 0..nmax. As make_qp_quants of ggml-quants.c, which the
// formats use with an importance matrix. N is the number of sub-blocks of a super-block, so that this is run rarely;
// its quants are bytes, with the wrap that ggml's have.
#pragma once

#include "arithmetic.h"
#include "search_scale.h"

namespace kquants::SIMD_TARGET {
namespace {

template <int N>
F search_positive(const F* x, const F* w, int nmax, I (&l)[N]) {
    const F top = set(static_cast<float>(nmax));
    F most = zero();
    for (int i = 0; i < N; ++i) most = select(most > x[i], most, x[i]);
    const M empty = most < set(group_max_eps);
    F inverse = top / most;
    F best = zero();
    const F scale = set(1.F) / inverse;
    for (int i = 0; i < N; ++i) {
        const F off = x[i] - scale * to_float(byte(nearest(inverse * x[i])));
        best = best + w[i] * off * off;
    }
    for (int is = -4; is <= 4; ++is) {
        if (is == 0) continue;
        const F guess = set(0.1F * static_cast<float>(is) + static_cast<float>(nmax)) / most;
        const F guess_scale = set(1.F) / guess;
        F error = zero();
        for (int i = 0; i < N; ++i) {
            const F off = x[i] - guess_scale * to_float(min(set(nmax), nearest(guess * x[i])));
            error = error + w[i] * off * off;
        }
        const M better = error < best;
        best = select(better, error, best);
        inverse = select(better, guess, inverse);
    }
    F sum_lx = zero();
    F sum_l2 = zero();
    for (int i = 0; i < N; ++i) {
        const I q = min(set(nmax), nearest(inverse * x[i]));
        l[i] = byte(q);
        sum_lx = sum_lx + w[i] * x[i] * to_float(q);
        sum_l2 = sum_l2 + w[i] * to_float(q) * to_float(q);
    }
    bool moved = true;
    for (int round = 0; round < 5 && moved; ++round) {
        moved = false;
        for (int i = 0; i < N; ++i) {
            const F old = to_float(l[i]);
            const F lx = sum_lx - w[i] * x[i] * old;
            const F l2 = sum_l2 - w[i] * old * old;
            const I q = min(set(nmax), nearest(x[i] * l2 / lx));
            const F new_lx = lx + w[i] * x[i] * to_float(q);
            const F new_l2 = l2 + w[i] * to_float(q) * to_float(q);
            const M better = (lx > zero()) & (l2 > zero()) & (q != l[i]) & !empty &
                             (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2);
            l[i] = select(better, byte(q), l[i]);
            sum_lx = select(better, new_lx, sum_lx);
            sum_l2 = select(better, new_l2, sum_l2);
            moved |= any(better);
        }
    }
    for (int i = 0; i < N; ++i) l[i] = select(empty, set(0), l[i]);
    return select((sum_l2 > zero()) & !empty, sum_lx / sum_l2, zero());
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
