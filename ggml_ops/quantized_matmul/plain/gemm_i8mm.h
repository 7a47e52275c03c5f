// Sums of bytes times bytes by the matrix products of Armv8.6 (I8MM): an instruction multiplies two rows of weights by
// two columns, eight values of each.
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_neon.h"
#endif

#include <cstdint>

#include "../bytes.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Lanes of a sum: both columns with the first row, then with the second.
struct Dots {
    static constexpr int row_bytes = 8;
    static constexpr int columns_together = 2;

    static F of_columns(const float (&two)[2]) {
        const float32x2_t both = vld1_f32(two);
        return {vcombine_f32(both, both)};
    }

    template <int Values, int Rows, int Vectors, int Groups>
    [[gnu::always_inline]] static void add(const std::int8_t (*q)[Rows][row_bytes],
                                           const std::uint8_t* const (&x)[2 * Groups], I (&sums)[Vectors][Groups]) {
        for (int i = 0; i < Values; i += 8) {
            for (int c = 0; c < Groups; ++c) {
                const uint8x16_t eight_of_two = vcombine_u8(vld1_u8(x[2 * c] + i), vld1_u8(x[2 * c + 1] + i));
                for (int v = 0; v < Vectors; ++v) {
                    const B weights = load_bytes(q[i / 8][2 * v]);
                    sums[v][c].v = vmmlaq_s32(sums[v][c].v, weights.v, vreinterpretq_s8_u8(eight_of_two));
                }
            }
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
