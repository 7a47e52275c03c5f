// IQ2_XXS: d, and for 32 weights four bytes of entries and a word: four times seven signs, and a scale.
// Layout: ggml-common.h.
#pragma once

#include "../grids/entries.h"
#include "grid_weights.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct IQ2XXSLayout {
    static constexpr Format format = Format::iq2_xxs;
    static constexpr int values_per_scale = 32;
    static constexpr int offset = grids::iq2_xxs.offset();
    static constexpr float unit = 0.125F;

    static auto read(const std::uint8_t* p) { return read_iq2_xxs(p + 2); }
    static __m128i scales(const std::uint8_t* p) {
        const auto odd_words = [p](int i) {
            const __m128 first = _mm_castsi128_ps(load_16(p + 2 + i)), second = _mm_castsi128_ps(load_16(p + 18 + i));
            return _mm_castps_si128(_mm_shuffle_ps(first, second, 0xDD));
        };
        return scales_of_words(odd_words(0), odd_words(32));
    }
};
using IQ2XXS = GridWeights<IQ2XXSLayout>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
