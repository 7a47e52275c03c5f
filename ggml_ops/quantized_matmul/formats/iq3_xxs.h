// IQ3_XXS: d, 64 bytes of entries, and for 32 weights a word: four times seven signs, and a scale.
// Layout: ggml-common.h.
#pragma once

#include "../grids/entries.h"
#include "grid_weights.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct IQ3XXSLayout {
    static constexpr Format format = Format::iq3_xxs;
    static constexpr int values_per_scale = 32;
    static constexpr int offset = grids::iq3_xxs.offset();
    static constexpr float unit = 0.25F;

    static auto read(const std::uint8_t* p) { return read_iq3_xxs(p + 2); }
    static __m128i scales(const std::uint8_t* p) { return scales_of_words(load_16(p + 66), load_16(p + 82)); }
};
using IQ3XXS = GridWeights<IQ3XXSLayout>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
