// IQ2_XS: d, 32 words of nine bits of an entry and seven signs, eight bytes of scales.
// Layout: ggml-common.h.
#pragma once

#include "../grids/entries.h"
#include "grid_weights.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct IQ2XSLayout {
    static constexpr Format format = Format::iq2_xs;
    static constexpr int values_per_scale = 16;
    static constexpr int offset = grids::iq2_xs.offset();
    static constexpr float unit = 0.125F;

    static auto read(const std::uint8_t* p) { return read_iq2_xs(p + 2); }
    static __m128i scales(const std::uint8_t* p) { return scales_of_nibbles(load_8(p + 66)); }
};
using IQ2XS = GridWeights<IQ2XSLayout>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
