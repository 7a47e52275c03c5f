// The state of the online softmax of a block of rows, and its end.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "../simd/vector.h"
#include "attention.h"
#include "cache_rows.h"
#include "units.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr float infinity = std::numeric_limits<float>::infinity();
inline constexpr std::int64_t row_unit = tile_rows / 3;  // rows are computed in multiples of it

// The arrays of a state, each at a multiple of 64 bytes.
struct StateArrays {
    std::int64_t rows, value_step;
    float* largest;
    float* sum;
    float* values;  // rows x value_step

    StateArrays(State state, std::int64_t real_rows, std::int64_t value_size)
        : rows(round_up(real_rows, row_unit)),
          value_step(round_up(value_size, floats_per_line)),
          largest(state),
          sum(largest + round_up(rows, floats_per_line)),
          values(sum + round_up(rows, floats_per_line)) {}

    std::int64_t floats() const { return values - largest + rows * value_step; }

    void clear() const {
        std::fill(largest, largest + rows, -infinity);
        std::fill(sum, sum + rows, 0.F);
        std::fill(values, values + rows * value_step, 0.F);
    }
};

std::size_t state_floats(std::int64_t rows, std::int64_t value_size) {
    float origin[1];
    return static_cast<std::size_t>(StateArrays(origin, rows, value_size).floats());
}

// One row of the result, from its row in each state.
inline void finish_row(const Finish& job, std::int64_t row, float* out) {
    const std::int64_t rows = job.tokens * job.heads;
    const auto arrays = [&](std::int64_t i) {
        return StateArrays(const_cast<float*>(job.states) + i * job.step, rows, job.size);
    };
    const float sink = job.sinks != nullptr ? job.sinks[row % job.heads] : -infinity;
    float largest = sink;
    for (std::int64_t i = 0; i < job.count; ++i) largest = std::max(largest, arrays(i).largest[row]);
    std::fill(out, out + job.size, 0.F);
    if (largest == -infinity) return;  // no position is visible
    float sum = std::exp(sink - largest);
    for (std::int64_t i = 0; i < job.count; ++i) {
        sum += arrays(i).sum[row] * std::exp(arrays(i).largest[row] - largest);
    }
    for (std::int64_t i = 0; i < job.count; ++i) {
        const StateArrays state = arrays(i);
        const float factor = std::exp(state.largest[row] - largest) / sum;
        const float* const values = state.values + row * state.value_step;
        for (std::int64_t d = 0; d < job.size; ++d) out[d] += values[d] * factor;
    }
}

void finish(const Finish& job) {
    for (std::int64_t row = 0; row < job.tokens * job.heads; ++row) {
        finish_row(job, row, job.out + row / job.heads * job.token_step + row % job.heads * job.head_step);
    }
}

}  // namespace
}  // namespace attention::SIMD_TARGET
