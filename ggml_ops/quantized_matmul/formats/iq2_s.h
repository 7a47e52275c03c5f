// IQ2_S: d, 32 bytes of entries, 32 of signs, eight of two more bits of the entries, eight of scales.
// Layout: ggml-common.h.
#pragma once

#include "../grids/entries.h"
#include "grid_weights.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct IQ2SLayout {
    static constexpr Format format = Format::iq2_s;
    static constexpr int values_per_scale = 16;
    static constexpr int offset = grids::iq2_s.offset();
    static constexpr float unit = 0.125F;

    static auto read(const std::uint8_t* p) { return read_iq2_s(p + 2); }
    static __m128i scales(const std::uint8_t* p) { return scales_of_nibbles(load_8(p + 74)); }
};
using IQ2S = GridWeights<IQ2SLayout>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
