// What follows a matmul, on a column of its result: a bias, GELU, another summand.
#pragma once

#include <cstdint>

#include "../simd/exponential.h"
#include "../simd/vector.h"
#include "float_matmul.h"

namespace float_matmul::SIMD_TARGET {
namespace {

using namespace simd;

// The approximation by tanh: x / 2 (1 + tanh y) = x / (1 + exp(-2 y)), y = sqrt(2 / pi) (x + 0.044715 x^3).
// Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv:1606.08415.
inline F gelu(F x) {
    const F minus_two_y = x * (x * x * set(-0.0713548162726F) + set(-1.59576912160574F));
    return x / (set(1.F) + exponential(minus_two_y));
}

inline F finished(const Finish& f, F x, const float* bias, const float* summand) {
    if (bias != nullptr) x = x + simd::load(bias);
    if (f.gelu) x = gelu(x);
    if (summand != nullptr) x = x + simd::load(summand);
    return x;
}

void finish(const Finish& f) {
    const auto at = [](const float* p, std::int64_t i) { return p == nullptr ? p : p + i; };
    std::int64_t r = 0;
    for (; r + lanes <= f.rows; r += lanes) {
        store(f.out + r, finished(f, simd::load(f.out + r), at(f.bias, r), at(f.summand, r)));
    }
    for (; r < f.rows; ++r) {  // one by one, in the first lane
        float out[lanes] = {f.out[r]}, bias[lanes] = {}, summand[lanes] = {};
        if (f.bias != nullptr) bias[0] = f.bias[r];
        if (f.summand != nullptr) summand[0] = f.summand[r];
        store(out, finished(f, simd::load(out), f.bias ? bias : nullptr, f.summand ? summand : nullptr));
        f.out[r] = out[0];
    }
}

}  // namespace
}  // namespace float_matmul::SIMD_TARGET
