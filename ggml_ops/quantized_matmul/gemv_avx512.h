// GEMV, for small batches, where activations are arranged (see arrange): each row of weights is decoded once, block by
// block, brought into the same order, and multiplied with all columns.
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_avx512.h"
#endif

#include <cstdint>

#include "activations.h"
#include "bytes.h"
#include "formats/all.h"
#include "quantized_matmul.h"
#include "read_ahead.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// A super-block of a row times some columns, in lanes of one scale each.
template <class Weights, int Columns>
void add_block(const std::uint8_t* p, const std::uint8_t* const (&columns)[Columns], const ColumnOffsets& at,
               F (&sum)[Columns]) {
    constexpr int count = super_block / Weights::values_per_scale;
    const Weights weights(p);
    B half[2][vectors];
    weights.template unpack<0>(half[0]);
    weights.template unpack<1>(half[1]);
    B q[4] = {half[0][0], half[0][1], half[1][0], half[1][1]};
    arrange(q);
    F scales[1], minus_mins[1];
    weights.scales(scales);
    if constexpr (Weights::has_mins) {
        weights.mins(minus_mins);
        minus_mins[0] = -minus_mins[0];
    }
    const F even = count == 8 ? spread_eight(scales[0]) : spread_even(scales[0]);
    const F odd = spread_odd(scales[0]);
    const auto dot_two = [](I start, const B* w, const std::uint8_t* x) {
        const I first = Weights::narrow ? dot(start, w[0], load_bytes(x)) : dot_wide(start, w[0], load_bytes(x));
        return Weights::narrow ? dot(first, w[1], load_bytes(x + width)) : dot_wide(first, w[1], load_bytes(x + width));
    };
    for (int c = 0; c < Columns; ++c) {
        const std::uint8_t* const x = columns[c] + at.q;
        const float* const x_scales = floats_at(columns[c], at.scale);
        const I first = dot_two(zero_sums(), q, x);
        if constexpr (count == 8) {
            const F scale = column_scale_of_32<Weights> ? spread_eight(eight(x_scales)) : set(*x_scales);
            sum[c] = fma(to_float(dot_two(first, q + 2, x + 2 * width)), even * scale, sum[c]);
        } else {
            const I second = dot_two(zero_sums(), q + 2, x + 2 * width);
            sum[c] = fma(fma(to_float(first), even, to_float(second) * odd), set(*x_scales), sum[c]);
        }
        if constexpr (Weights::has_mins) {
            const float* const sums = floats_at(columns[c], at.sums);
            sum[c] = fma(minus_mins[0], count == 8 ? eight(sums) : load(sums), sum[c]);
        }
    }
}

template <class Weights, int Columns>
void gemv(const Job& job) {
    const std::uint8_t* columns[Columns];
    for (int c = 0; c < Columns; ++c) columns[c] = job.columns[c];
    const std::int64_t blocks = job.k / super_block;
    for (std::int64_t r = 0; r < job.rows; ++r) {
        const std::uint8_t* const row = job.weights + r * job.row_step;
        F sum[Columns];
        for (int c = 0; c < Columns; ++c) sum[c] = zero();
        for (std::int64_t b = 0; b < blocks; ++b) {
            const std::uint8_t* const block = row + b * super_block_bytes<Weights>();
            prefetch_block<Weights>(block);
            add_block<Weights>(block, columns, offsets_of<Weights>(job.k, b), sum);
        }
        for (int c = 0; c < Columns; ++c) job.out[c][r] = total(sum[c]);
    }
}

inline constexpr int max_gemv_batch = 8;  // sums of more columns do not fit in 32 registers, beside a super-block

// All columns of a batch, at most `Columns`.
template <class Weights, int Columns = max_gemv_batch>
void gemv_batch(const Job& job) {
    if (job.batch_size == Columns) {
        gemv<Weights, Columns>(job);
    } else if constexpr (Columns > 1) {
        gemv_batch<Weights, Columns - 1>(job);
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
