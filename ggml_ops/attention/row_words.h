// Rows of a tile of the cache as words: 16-bit integers with one scale for a row. Blocks of 8 or 4 bits become words as
// integers, without floats in between; 16-bit floats are scaled by the largest one of the row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../simd/vector.h"
#include "attention.h"
#include "cache_rows.h"
#include "units.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr std::int64_t word_chunk = 2 * lanes;

// How the rows of a format become words, in the formats that do.
//   Half           the type of what is kept of a row before: its largest magnitude, or the scales of its blocks
//   halves(size)   how many
//   step           what a word of 1 stands for, times the factor limit over the largest half
template <class Format>
struct Words {
    static constexpr bool exist = false;
};

template <class Element>
struct WordsOfFloats {
    static constexpr bool exist = true;
    using Half = Element;
    static constexpr float step = 1;
    static constexpr std::int64_t halves(std::int64_t) { return 1; }
    static std::uint16_t half(const std::uint8_t* row, std::int64_t size, std::int64_t) {
        return largest_magnitude(reinterpret_cast<const std::uint16_t*>(row), size);
    }
    static F factor(F, F inverse) { return inverse; }
    static F of(const std::uint8_t* row, std::int64_t i, const float* factors) {
        F x[2];
        Plain<Element>::template load_vectors<2>(row, i, x);
        return pack(x[0] * set(*factors), x[1] * set(*factors));
    }
};
template <>
struct Words<Plain<Float16>> : WordsOfFloats<Float16> {};
template <>
struct Words<Plain<BFloat16>> : WordsOfFloats<BFloat16> {};

// A factor is an integer of 15 bits, twice in a lane: its block's part of the largest scale.
template <class Format>
struct WordsOfBlocks {
    static constexpr bool exist = true;
    using Half = Float16;
    static constexpr std::int64_t halves(std::int64_t size) { return size / 32; }
    static std::uint16_t half(const std::uint8_t* row, std::int64_t, std::int64_t block) {
        std::uint16_t bits;
        std::memcpy(&bits, row + block * Format::block_bytes, sizeof bits);
        return bits;
    }
    static F factor(F scale, F inverse) {
        const I integer = rounded(scale * inverse);
        return from_bits((integer & set(0xFFFF)) | shift_left<16>(integer));
    }
    static F of(const std::uint8_t* row, std::int64_t i, const float* factors) {
        const std::uint8_t* const block = row + i / 32 * Format::block_bytes + 2;
        return multiply_high(Words<Format>::shifted(block, i % 32), set(factors[i / 32 * short_tile]));
    }
};
template <>
struct Words<Q8_0> : WordsOfBlocks<Q8_0> {
    static constexpr float step = 32768.F / 256.F;
    static F shifted(const std::uint8_t* bytes, std::int64_t i) { return high_bytes(bytes + i); }
};
template <>
struct Words<Q4_0> : WordsOfBlocks<Q4_0> {
    static constexpr float step = 32768.F / 4096.F;
    static F shifted(const std::uint8_t* nibbles, std::int64_t i) { return high_nibbles(nibbles, i); }
};

inline bool become_words(Type type) { return type != Type::f32; }
inline bool are_blocks(Type type) { return type == Type::q8_0 || type == Type::q4_0; }

// What the rows of a tile are multiplied by to become words, and what the words are multiplied by to become values.
struct TileFactors {
    float* factors;  // for each half of a row: positions
    float* scales;   // positions
    float* halves;   // the same as factors, of 16 bits each
    float* end;

    TileFactors(float* scratch, std::int64_t size)
        : factors(scratch),
          scales(factors + (size + 31) / 32 * short_tile),
          halves(scales + short_tile),
          end(halves + (size + 31) / 32 * short_tile / 2) {}
};

// Positions first <= j < first + count of a cache; behind them the last one is repeated, with scales of zero.
// Everything is copied: what is stored between the rows could change the originals, as far as a compiler knows.
template <class Format>
struct WordRows {
    const std::uint8_t* rows;
    std::int64_t step, size, count;
    float *factors, *scales;

    // Words are at most `limit` in magnitude, which is less than 2^15.
    WordRows(const Cache& cache, std::int64_t first, std::int64_t positions, float limit, const TileFactors& tile)
        : rows(cache.rows + first * cache.step),
          step(cache.step),
          size(cache.size),
          count(positions),
          factors(tile.factors),
          scales(tile.scales) {
        auto* const halves = reinterpret_cast<std::uint16_t*>(tile.halves);
        const std::int64_t some = Words<Format>::halves(size);
        for (std::int64_t h = 0; h < some; ++h) {
            std::uint16_t* const to = halves + h * short_tile;
            for (std::int64_t j = 0; j < count; ++j) to[j] = Words<Format>::half(rows + j * step, size, h);
            for (std::int64_t j = count; j < short_tile; ++j) to[j] = 0;
        }
        using Half = typename Words<Format>::Half;
        const auto half = [&](std::int64_t h, std::int64_t j) {
            return load(reinterpret_cast<const Half*>(halves + h * short_tile + j));
        };
        for (std::int64_t j = 0; j < short_tile; j += lanes) {
            F most = zero(), finite = zero();
            for (std::int64_t h = 0; h < some; ++h) {
                most = max(abs(half(h, j)), most);
                finite = finite + (half(h, j) - half(h, j));  // NaN if it is not finite
            }
            most = most + finite;
            store(scales + j, most * set(Words<Format>::step / limit));
            const F inverse = select(most > zero(), set(limit) / most, zero());
            for (std::int64_t h = 0; h < some; ++h) {
                store(factors + h * short_tile + j, Words<Format>::factor(half(h, j), inverse));
            }
        }
    }

    const std::uint8_t* row(std::int64_t j) const { return rows + std::min(j, count - 1) * step; }

    // All words of a position.
    [[gnu::always_inline]] void unpack(std::int64_t j, float* to) const {
        const std::uint8_t* const from = row(j);
        const float* const of_row = factors + j;
        const std::int64_t end = size;
        for (std::int64_t i = 0; i < end; i += word_chunk) store(to + i / 2, Words<Format>::of(from, i, of_row));
    }
    // word_chunk words of each position, from element i on, beside those of the position that their weights are paired
    // with.
    [[gnu::always_inline]] void unpack_pairs(std::int64_t i, std::int64_t j, float* to) const {
        F pairs[2];
        interleave(Words<Format>::of(row(j), i, factors + j), Words<Format>::of(row(j + lanes), i, factors + j + lanes),
                   pairs);
        store(to, pairs[0]);
        store(to + lanes, pairs[1]);
    }
};

}  // namespace
}  // namespace attention::SIMD_TARGET
