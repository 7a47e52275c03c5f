// A tile is one block of each of `lanes` blocks that follow each other in memory: value i of all of them is one vector.
// The last tile is filled up by repeating the last block, whose result is written once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "arithmetic.h"
#include "kquants.h"

namespace kquants::SIMD_TARGET {
namespace {

template <int Width>
struct Tile {
    F x[Width];
    F importance[Width];
    std::int64_t rows[lanes];  // the row of each lane's block
    bool has_importance;
};

template <class Value>
void load_transposed(const Value* const (&blocks)[lanes], int width, F* out) {
    for (int column = 0; column < width; column += lanes) {
        F square[lanes];
        for (int lane = 0; lane < lanes; ++lane) square[lane] = load(blocks[lane] + column);
        transpose(square);
        for (int i = 0; i < lanes; ++i) out[column + i] = square[i];
    }
}

// Writes word w of lane l to out[l] + offset + 4 w, for all words.
template <int Words>
void store_words(const I (&words)[Words], std::uint8_t* const (&out)[lanes], int offset = 0) {
    int first = 0;
    for (; first + lanes <= Words; first += lanes) {
        F square[lanes];
        for (int i = 0; i < lanes; ++i) square[i] = from_bits(words[first + i]);
        transpose(square);
        for (int lane = 0; lane < lanes; ++lane) {
            float row[lanes];
            store(row, square[lane]);
            std::memcpy(out[lane] + offset + 4 * first, row, sizeof(row));
        }
    }
    for (; first < Words; ++first) {
        std::int32_t word[lanes];
        store(word, words[first]);
        for (int lane = 0; lane < lanes; ++lane) std::memcpy(out[lane] + offset + 4 * first, &word[lane], 4);
    }
}

// Writes the FP16 value of lane l to out[l] + offset.
inline void store_fp16(I fp16, std::uint8_t* const (&out)[lanes], int offset) {
    std::int32_t h[lanes];
    store(h, fp16);
    for (int lane = 0; lane < lanes; ++lane) {
        const auto bits = static_cast<std::uint16_t>(h[lane]);
        std::memcpy(out[lane] + offset, &bits, 2);
    }
}

inline bool fits_fp16(I fp16) { return !any(!((fp16 & set(0x7C00)) != set(0x7C00))); }

// Four quants, of one byte each, become a word.
inline I word(I a, I b, I c, I d) { return a | shift_left<8>(b) | shift_left<16>(c) | shift_left<24>(d); }

// Calls quantize(tile, out) for all tiles of the rows; it returns false for a scale beyond the range of FP16.
template <int Width, int Bytes, class Quantize>
bool for_each_tile(const Rows& job, Quantize quantize) {
    const std::int64_t per_row = job.columns / Width;
    const std::int64_t blocks = job.rows * per_row;
    Tile<Width> tile;
    tile.has_importance = job.importance != nullptr;
    bool fits = true;
    for (std::int64_t first = 0; first < blocks; first += lanes) {
        const int used = static_cast<int>(std::min<std::int64_t>(lanes, blocks - first));
        const float* importance[lanes];
        alignas(64) std::uint8_t scratch[lanes][Bytes];
        std::uint8_t* out[lanes];
        std::int64_t block[lanes];
        for (int lane = 0; lane < lanes; ++lane) {
            block[lane] = first + std::min(lane, used - 1);
            tile.rows[lane] = block[lane] / per_row;
            importance[lane] = job.importance + (tile.has_importance ? block[lane] % per_row * Width : 0);
            out[lane] = lane < used ? job.blocks + block[lane] * Bytes : scratch[lane];
        }
        const auto load_as = [&](const auto* x) {
            const std::remove_pointer_t<decltype(x)>* start[lanes];
            for (int lane = 0; lane < lanes; ++lane) start[lane] = x + block[lane] * Width;
            load_transposed(start, Width, tile.x);
        };
        switch (job.source) {
            case Source::f32: load_as(static_cast<const float*>(job.x)); break;
            case Source::bf16: load_as(static_cast<const BFloat16*>(job.x)); break;
            case Source::f16: load_as(static_cast<const Float16*>(job.x)); break;
        }
        if (tile.has_importance) load_transposed(importance, Width, tile.importance);
        fits &= quantize(static_cast<const Tile<Width>&>(tile), out);
    }
    return fits;
}

// In the order of ggml's loops.
template <int N>
F sum_of_squares(const F* x) {
    F sum = zero();
    for (int i = 0; i < N; ++i) sum = sum + x[i] * x[i];
    return sum;
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
