// IQ3_S: d, 64 bytes of entries, eight of one more bit of them, 32 of signs, four of scales.
// Layout: ggml-common.h.
#pragma once

#include "../grids/entries.h"
#include "grid_weights.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

struct IQ3SLayout {
    static constexpr Format format = Format::iq3_s;
    static constexpr int values_per_scale = 32;
    static constexpr int offset = grids::iq3_s.offset();
    static constexpr float unit = 1.F;

    static auto read(const std::uint8_t* p) { return read_iq3_s(p + 2); }
    static __m128i scales(const std::uint8_t* p) {
        std::int32_t four;
        std::memcpy(&four, p + 106, sizeof four);
        return scales_of_nibbles(_mm_cvtsi32_si128(four));
    }
};
using IQ3S = GridWeights<IQ3SLayout>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
