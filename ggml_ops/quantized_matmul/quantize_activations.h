// Columns of activations to 8 bits, as quantize_row_q8_K_ref, quantize_row_q8_0 and quantize_row_q8_1 of ggml do.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "activations.h"
#include "bytes.h"
#include "quantized_matmul.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline float as_fp16(float a) { return fp16_to_float(float_to_fp16(a)); }

inline float largest_of(const float* x, int count) {
    F most = zero();
    for (int i = 0; i < count; i += lanes) most = max(abs(load(x + i)), most);
    return largest(most);
}

// 32 values times `inverse`, rounded; the sums of the first and of the last 16.
inline void round_32(const float* x, float inverse, std::int8_t* q, std::int32_t (&sums)[2]) {
    I sum[2] = {zero_sums(), zero_sums()};
    for (int j = 0; j < 32; j += lanes) {
        const I rounded_x = rounded(load(x + j) * set(inverse));
        store_narrow(q + j, rounded_x);
        sum[j / 16] = sum[j / 16] + rounded_x;
    }
    for (int i = 0; i < 2; ++i) sums[i] = total(sum[i]);
}

// A sum fits 32 bits unless an activation is infinite or NaN; then it wraps around, as vectors do.
inline std::int32_t wrapped(std::int64_t sum) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(sum)); }

inline void quantize_block(const float* x, std::int64_t block, const ColumnParts<Activations::q8_k>& parts,
                           std::uint8_t* column) {
    const float amax = largest_of(x, super_block);
    const float inverse = amax > 0.F ? 127.F / amax : 0.F;
    auto* const q = reinterpret_cast<std::int8_t*>(column) + block * super_block;
    auto* const minus_16 = reinterpret_cast<std::int16_t*>(column + parts.minus_sums_of_16) + block * 16;
    auto* const minus_32 = reinterpret_cast<std::int16_t*>(column + parts.minus_sums_of_32) + block * 8;
    auto* const starts_16 = reinterpret_cast<std::int32_t*>(column + parts.starts_of_16) + block * 16;
    auto* const starts_32 = reinterpret_cast<std::int32_t*>(column + parts.starts_of_32) + block * 8;
    std::int64_t all = 0;
    for (int i = 0; i < 8; ++i) {
        std::int32_t sums[2];
        round_32(x + 32 * i, inverse, q + 32 * i, sums);
        for (int j = 0; j < 2; ++j) {
            minus_16[2 * i + j] = static_cast<std::int16_t>(wrapped(-std::int64_t{sums[j]}));
            starts_16[2 * i + j] = wrapped(-128 * std::int64_t{sums[j]});
        }
        const std::int64_t both = std::int64_t{sums[0]} + sums[1];
        minus_32[i] = static_cast<std::int16_t>(wrapped(-both));
        starts_32[i] = wrapped(-128 * both);
        all += both;
    }
    reinterpret_cast<std::int32_t*>(column + parts.starts_of_256)[block] = wrapped(-128 * all);
    reinterpret_cast<float*>(column + parts.scales)[block] = amax > 0.F ? 1.F / inverse : 0.F;
}

// Kind: q8_0 or q8_1.
template <Activations Kind>
void quantize_block(const float* x, std::int64_t block, const ColumnParts<Kind>& parts, std::uint8_t* column) {
    for (int i = 0; i < 8; ++i) {
        const float amax = largest_of(x + 32 * i, 32);
        const float scale = amax / 127.F;
        const std::int64_t to = block * 8 + i;
        std::int32_t sums[2];
        round_32(x + 32 * i, amax > 0.F ? 127.F / amax : 0.F, reinterpret_cast<std::int8_t*>(column) + 32 * to, sums);
        const std::int64_t both = std::int64_t{sums[0]} + sums[1];
        reinterpret_cast<std::int32_t*>(column + parts.starts_of_32)[to] = wrapped(-128 * both);
        reinterpret_cast<float*>(column + parts.scales)[to] = as_fp16(scale);
        if constexpr (Kind == Activations::q8_1) {
            reinterpret_cast<float*>(column + parts.minus_sums)[to] = -as_fp16(scale * static_cast<float>(both));
        }
    }
}

// A super-block in the order that the target multiplies it.
template <Activations Kind>
void arrange_block(std::uint8_t* q) {
    B block[super_block / width];
    for (int i = 0; i < super_block / width; ++i) block[i] = load_bytes(q + i * width);
    arrange<Kind>(block);
    for (int i = 0; i < super_block / width; ++i) store_bytes(q + i * width, block[i]);
}

// Blocks first <= b < last; behind the values of x the last one has zeros.
template <Activations Kind>
void quantize_blocks(std::int64_t k, const float* x, std::int64_t first, std::int64_t last, std::uint8_t* column) {
    const ColumnParts<Kind> parts(k);
    for (std::int64_t b = first; b < last; ++b) {
        const std::int64_t count = std::min(super_block, k - b * super_block);
        if (count == super_block) {
            quantize_block(x + b * super_block, b, parts, column);
        } else {
            float padded[super_block] = {};
            std::memcpy(padded, x + b * super_block, static_cast<std::size_t>(count) * sizeof(float));
            quantize_block(padded, b, parts, column);
        }
        arrange_block<Kind>(column + b * super_block);
    }
}

inline void quantize_activations(Format format, std::int64_t k, const float* x, std::int64_t first, std::int64_t last,
                                 std::uint8_t* column) {
    switch (row_of(format).activations) {
        case Activations::q8_k: return quantize_blocks<Activations::q8_k>(k, x, first, last, column);
        case Activations::q8_0: return quantize_blocks<Activations::q8_0>(k, x, first, last, column);
        case Activations::q8_1: return quantize_blocks<Activations::q8_1>(k, x, first, last, column);
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
