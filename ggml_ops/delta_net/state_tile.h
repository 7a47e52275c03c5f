// The state between its layout in memory (value rows) and the layout of the chunkwise form (value rows in the lanes).
#pragma once

#include <cstdint>

#include "../simd/vector.h"

namespace delta_net::SIMD_TARGET {
namespace {

using namespace simd;

// Rows of the state into lanes, and back. `tile` is size x Rows vectors.
template <int Rows>
void rows_to_lanes(const float* rows, std::int64_t n, F* tile) {
    for (int r = 0; r < Rows; ++r) {
        for (std::int64_t i = 0; i < n; i += lanes) {
            F square[lanes];
            for (int l = 0; l < lanes; ++l) square[l] = load(rows + (r * lanes + l) * n + i);
            transpose(square);
            for (int l = 0; l < lanes; ++l) tile[(i + l) * Rows + r] = square[l];
        }
    }
}
template <int Rows>
void lanes_to_rows(const F* tile, std::int64_t n, float* rows) {
    for (int r = 0; r < Rows; ++r) {
        for (std::int64_t i = 0; i < n; i += lanes) {
            F square[lanes];
            for (int l = 0; l < lanes; ++l) square[l] = tile[(i + l) * Rows + r];
            transpose(square);
            for (int l = 0; l < lanes; ++l) store(rows + (r * lanes + l) * n + i, square[l]);
        }
    }
}

}  // namespace
}  // namespace delta_net::SIMD_TARGET
