// IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S: entries of grids with signs. Layouts: see the headers in formats/.
#pragma once

#include "../grids/tables.h"
#include "block.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Eight signs, of which the eighth is the parity of the seven stored ones.
inline int with_parity(int seven) {
    int parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1) << 7;
}

// Eight weights: one entry of eight, or two of four; bit j of `signs` negates the j-th.
template <const auto& Grid>
void decode_eight(int entry, int second_entry, int signs, std::int8_t* q) {
    for (int j = 0; j < 8; ++j) {
        const int from = j < Grid.weights ? entry : second_entry;
        const int magnitude = Grid.magnitude(from, j % Grid.weights);
        q[j] = static_cast<std::int8_t>(signs >> j & 1 ? -magnitude : magnitude);
    }
}

inline float odd_scale(float d, int scale) { return d * static_cast<float>(2 * scale + 1); }

struct IQ2XXS {
    static constexpr Format format = Format::iq2_xxs;
    static constexpr int values_per_scale = 32;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        const float d = 0.125F * fp16_at(p);
        for (int i = 0; i < 8; ++i) {
            const std::uint8_t* const at = p + 2 + 8 * i;
            const std::uint32_t bits = long_word_at(at + 4);
            block.scales[i] = odd_scale(d, static_cast<int>(bits >> 28));
            for (int l = 0; l < 4; ++l) {
                const int signs = with_parity(static_cast<int>(bits >> 7 * l & 127));
                decode_eight<grids::iq2_xxs>(at[l], 0, signs, block.q + 32 * i + 8 * l);
            }
        }
    }
};

struct IQ2XS {
    static constexpr Format format = Format::iq2_xs;
    static constexpr int values_per_scale = 16;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        const float d = 0.125F * fp16_at(p);
        for (int i = 0; i < 16; ++i) block.scales[i] = odd_scale(d, p[66 + i / 2] >> (i % 2 * 4) & 15);
        for (int i = 0; i < 32; ++i) {
            const int word = word_at(p + 2 + 2 * i);
            decode_eight<grids::iq2_xs>(word & 511, 0, with_parity(word >> 9), block.q + 8 * i);
        }
    }
};

struct IQ2S {
    static constexpr Format format = Format::iq2_s;
    static constexpr int values_per_scale = 16;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        const float d = 0.125F * fp16_at(p);
        for (int i = 0; i < 16; ++i) block.scales[i] = odd_scale(d, p[74 + i / 2] >> (i % 2 * 4) & 15);
        for (int i = 0; i < 32; ++i) {
            const int high = p[66 + i / 4] >> (i % 4 * 2) & 3;
            decode_eight<grids::iq2_s>(p[2 + i] | high << 8, 0, p[34 + i], block.q + 8 * i);
        }
    }
};

struct IQ3XXS {
    static constexpr Format format = Format::iq3_xxs;
    static constexpr int values_per_scale = 32;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        const float d = 0.25F * fp16_at(p);
        for (int i = 0; i < 8; ++i) {
            const std::uint32_t bits = long_word_at(p + 66 + 4 * i);
            block.scales[i] = odd_scale(d, static_cast<int>(bits >> 28));
            for (int l = 0; l < 4; ++l) {
                const std::uint8_t* const at = p + 2 + 8 * i + 2 * l;
                const int signs = with_parity(static_cast<int>(bits >> 7 * l & 127));
                decode_eight<grids::iq3_xxs>(at[0], at[1], signs, block.q + 32 * i + 8 * l);
            }
        }
    }
};

struct IQ3S {
    static constexpr Format format = Format::iq3_s;
    static constexpr int values_per_scale = 32;
    static constexpr bool has_mins = false;

    static void decode(const std::uint8_t* p, Block& block) {
        const float d = fp16_at(p);
        for (int i = 0; i < 8; ++i) block.scales[i] = odd_scale(d, p[106 + i / 2] >> (i % 2 * 4) & 15);
        for (int i = 0; i < 32; ++i) {
            const int ninth = p[66 + i / 4] >> (i % 4 * 2);
            const int first = p[2 + 2 * i] | (ninth & 1) << 8, second = p[3 + 2 * i] | (ninth >> 1 & 1) << 8;
            decode_eight<grids::iq3_s>(first, second, p[74 + i], block.q + 8 * i);
        }
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
