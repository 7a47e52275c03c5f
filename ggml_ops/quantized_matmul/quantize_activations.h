// Columns of activations to 8 bits, as quantize_row_q8_K_ref and quantize_row_q8_0 of ggml do.
#pragma once

#include <cstdint>

#include "activations.h"
#include "bytes.h"
#include "quantized_matmul.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline float as_fp16(float a) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtps_ph(_mm_set_ss(a), 0))); }

// `Count` values with one scale, which is returned.
template <int Count>
float quantize_block(const float* x, std::int8_t* q, float* sums_of_32, float* sums_of_16) {
    F most = zero();
    for (int i = 0; i < Count; i += lanes) most = max(abs(load(x + i)), most);
    const float amax = largest(most);
    const float inverse = amax > 0.F ? 127.F / amax : 0.F;
    float scale = 0.F;
    if (amax > 0.F) scale = Count == 32 ? as_fp16(amax / 127.F) : 1.F / inverse;
    for (int i = 0; i < Count; i += 32) {
        I sum[2] = {zero_sums(), zero_sums()};
        for (int j = 0; j < 32; j += lanes) {
            const I rounded_x = rounded(load(x + i + j) * set(inverse));
            store_narrow(q + i + j, rounded_x);
            sum[j / 16] = sum[j / 16] + rounded_x;
        }
        const std::int32_t first = total(sum[0]), second = total(sum[1]);
        *sums_of_16++ = scale * static_cast<float>(first);
        *sums_of_16++ = scale * static_cast<float>(second);
        *sums_of_32++ = scale * static_cast<float>(first + second);
    }
    return scale;
}

// A super-block in the order that the target multiplies it.
inline void arrange_block(std::int8_t* q) {
    B block[super_block / width];
    for (int i = 0; i < super_block / width; ++i) block[i] = load_bytes(q + i * width);
    arrange(block);
    for (int i = 0; i < super_block / width; ++i) store_bytes(q + i * width, block[i]);
}

inline void quantize_activations(Format format, std::int64_t k, const float* x, std::int64_t first, std::int64_t last,
                                 std::uint8_t* column) {
    auto* q = reinterpret_cast<std::int8_t*>(column);
    auto* sums_of_32 = reinterpret_cast<float*>(column + sums_offset(k, 32));
    auto* sums_of_16 = reinterpret_cast<float*>(column + sums_offset(k, 16));
    auto* scales = reinterpret_cast<float*>(column + scales_offset(k));
    const std::int64_t step = activations_per_scale(row_of(format).activations);
    for (std::int64_t at = first * super_block; at < last * super_block; at += step) {
        const auto quantize_one = step == 32 ? quantize_block<32> : quantize_block<super_block>;
        scales[at / step] = quantize_one(x + at, q + at, sums_of_32 + at / 32, sums_of_16 + at / 16);
    }
    for (std::int64_t block = first; block < last; ++block) arrange_block(q + block * super_block);
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
