// Sums of bytes times bytes by the dot products of Armv8.2 (dotprod): an instruction multiplies four bytes of each of
// four rows of weights with four bytes of a column.
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_neon.h"
#endif

#include <cstdint>

#include "../../simd/repeat.h"
#include "../bytes.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Lanes of a sum: four rows.
struct Dots {
    static constexpr int row_bytes = 4;
    static constexpr int columns_together = 1;

    static F of_columns(const float (&one)[1]) { return set(one[0]); }

    template <int Values, int Rows, int Vectors, int Groups>
    [[gnu::always_inline]] static void add(const std::int8_t (*q)[Rows][row_bytes],
                                           const std::uint8_t* const (&x)[Groups], I (&sums)[Vectors][Groups]) {
        for (int i = 0; i < Values; i += 16) {
            B sixteen[Groups];
            for (int c = 0; c < Groups; ++c) sixteen[c] = load_bytes(x[c] + i);
            repeat<4>([&](auto four) {
                for (int v = 0; v < Vectors; ++v) {
                    const B weights = load_bytes(q[i / 4 + four][v * lanes]);
                    for (int c = 0; c < Groups; ++c) {
                        sums[v][c].v = vdotq_laneq_s32(sums[v][c].v, weights.v, sixteen[c].v, four);
                    }
                }
            });
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
