// GEMV, for small batches: each row of weights is decoded once, block by block, and multiplied with all columns.
#pragma once

#include <cstdint>

#include "activations.h"
#include "bytes.h"
#include "formats/all.h"
#include "quantized_matmul.h"
#include "read_ahead.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// The scales of a super-block of a row, in the form that its format needs.
template <class Weights>
struct RowScales {
    static constexpr int count = super_block / Weights::values_per_scale;

    B of_16;                       // narrow
    I of_32;                       // else, where a column has one scale for a super-block
    F floats[vectors_for(count)];  // else
    F factor;
    F mins[vectors_for(count)];

    explicit RowScales(const Weights& weights) {
        if constexpr (column_scale_of_32<Weights>) {
            weights.scales(floats);
        } else {
            factor = set(weights.factor());
            if constexpr (Weights::narrow) of_16 = make_words(weights.scales_of_16());
            else of_32 = integers(weights.scales_of_32());
        }
        if constexpr (Weights::has_mins) weights.mins(mins);
    }
};

// Half a super-block of a row times some columns: integer sums, scaled, or for Q8_0 the sums as they are.
template <class Weights, int Half, int Columns>
void add_half(const Weights& weights, const RowScales<Weights>& scales, const std::uint8_t* const (&columns)[Columns],
              const ColumnOffsets& at, I (&integer_sum)[Columns], F (&sum)[Columns]) {
    B q[vectors];
    weights.template unpack<Half>(q);
    const std::int64_t first = at.q + Half * half_block;
    if constexpr (Weights::narrow) {
        B words[vectors];
        for (int i = 0; i < vectors; ++i) words[i] = spread_words(scales.of_16, Half * vectors + i);
        for (int c = 0; c < Columns; ++c) {
            const std::uint8_t* const x = columns[c] + first;
            I a = scaled(pairs(q[0], load_bytes(x)), words[0]);
            for (int i = 1; i < vectors; ++i) a = scaled(a, pairs(q[i], load_bytes(x + width * i)), words[i]);
            integer_sum[c] = Half == 0 ? a : integer_sum[c] + a;
        }
    } else if constexpr (column_scale_of_32<Weights>) {
        for (int c = 0; c < Columns; ++c) {
            const F both = scales.floats[0] * eight(floats_at(columns[c], at.scale));
            for (int i = 0; i < vectors; ++i) {
                const I a = dot_wide(zero_sums(), q[i], load_bytes(columns[c] + first + width * i));
                sum[c] = fma(to_float(a), spread(both, Half * vectors + i), sum[c]);
            }
        }
    } else {
        I words[vectors];
        for (int i = 0; i < vectors; ++i) words[i] = spread(scales.of_32, Half * vectors + i);
        for (int c = 0; c < Columns; ++c) {
            I a = Half == 0 ? zero_sums() : integer_sum[c];
            for (int i = 0; i < vectors; ++i) {
                a = a + multiply(dot_wide(zero_sums(), q[i], load_bytes(columns[c] + first + width * i)), words[i]);
            }
            integer_sum[c] = a;
        }
    }
}

// A super-block of a row times some columns, in lanes.
template <class Weights, int Columns>
void add_block(const std::uint8_t* p, const std::uint8_t* const (&columns)[Columns], const ColumnOffsets& at,
               F (&sum)[Columns], F (&correction)[Columns]) {
    const Weights weights(p);
    const RowScales<Weights> scales(weights);
    I integer_sum[Columns];
    add_half<Weights, 0>(weights, scales, columns, at, integer_sum, sum);
    add_half<Weights, 1>(weights, scales, columns, at, integer_sum, sum);
    if constexpr (!column_scale_of_32<Weights>) {
        for (int c = 0; c < Columns; ++c) {
            sum[c] = fma(to_float(integer_sum[c]) * scales.factor, set(*floats_at(columns[c], at.scale)), sum[c]);
        }
    }
    if constexpr (Weights::has_mins) {
        constexpr int count = RowScales<Weights>::count;
        for (int c = 0; c < Columns; ++c) {
            for (int i = 0; i < vectors_for(count); ++i) {
                const float* const sums = floats_at(columns[c], at.sums) + i * lanes;
                correction[c] = fma(scales.mins[i], count < lanes ? eight(sums) : load(sums), correction[c]);
            }
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
        F sum[Columns], correction[Columns];
        for (int c = 0; c < Columns; ++c) sum[c] = correction[c] = zero();
        for (std::int64_t b = 0; b < blocks; ++b) {
            const std::uint8_t* const block = row + b * super_block_bytes<Weights>();
            prefetch_block<Weights>(block);
            add_block<Weights>(block, columns, offsets_of<Weights>(job.k, b), sum, correction);
        }
        for (int c = 0; c < Columns; ++c) job.out[c][r] = total(sum[c] - correction[c]);
    }
}

inline constexpr int max_gemv_batch = 5;  // sums of more columns do not fit in 16 registers

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
