// H = M^T D M from the last column to the first, as L^T L with L = sqrt(D) M, a panel of rows at a time. In each
// element the rows are subtracted in descending order, whatever the width of the vectors.
#pragma once

#include <cmath>

#include "tile.h"

namespace moment_rounding::SIMD_TARGET {
namespace {

// Rows first..last-1, columns from..to-1: minus sum over k >= last of L_ki L_kj. Row i needs columns up to i only.
inline void update(float* h, std::int64_t n, std::int64_t first, std::int64_t last, std::int64_t from,
                   std::int64_t to) {
    std::int64_t j = from;
    for (; j + lanes <= to; j += lanes) {
        std::int64_t i = first;
        for (; i + 4 <= last; i += 4) {
            F a = load(h + i * n + j), b = load(h + (i + 1) * n + j);
            F c = load(h + (i + 2) * n + j), d = load(h + (i + 3) * n + j);
            for (std::int64_t k = n - 1; k >= last; --k) {
                const F row = load(h + k * n + j);
                const float* l = h + k * n + i;
                a = a - row * set(l[0]);
                b = b - row * set(l[1]);
                c = c - row * set(l[2]);
                d = d - row * set(l[3]);
            }
            store(h + i * n + j, a), store(h + (i + 1) * n + j, b);
            store(h + (i + 2) * n + j, c), store(h + (i + 3) * n + j, d);
        }
        for (; i < last; ++i) {
            F a = load(h + i * n + j);
            for (std::int64_t k = n - 1; k >= last; --k) a = a - load(h + k * n + j) * set(h[k * n + i]);
            store(h + i * n + j, a);
        }
    }
    for (; j < to; ++j) {
        for (std::int64_t i = first; i < last; ++i) {
            float a = h[i * n + j];
            for (std::int64_t k = n - 1; k >= last; --k) a = a - h[k * n + j] * h[k * n + i];
            h[i * n + j] = a;
        }
    }
}

// A pivot below `floor` counts as `floor`.
inline void eliminate(float* h, std::int64_t n, std::int64_t first, std::int64_t last, float floor) {
    for (std::int64_t k = last - 1; k >= first; --k) {
        float* row = h + k * n;
        const float root = std::sqrt(row[k] > floor ? row[k] : floor);
        for (std::int64_t j = 0; j < k; ++j) row[j] = row[j] / root;
        row[k] = root;
        for (std::int64_t i = first; i < k; ++i) {
            const float l = row[i];
            float* other = h + i * n;
            for (std::int64_t j = 0; j <= i; ++j) other[j] = other[j] - l * row[j];
        }
    }
}

}  // namespace
}  // namespace moment_rounding::SIMD_TARGET
