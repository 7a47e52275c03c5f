// Rows of a tile of the cache as words: 16-bit integers with one scale for a row. Blocks of 8 or 4 bits become words as
// integers, without floats in between; 16-bit floats are scaled by the largest one of the row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../simd/repeat.h"
#include "../simd/vector.h"
#include "attention.h"
#include "cache_rows.h"
#include "short_tiles.h"
#include "units.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr std::int64_t word_chunk = 2 * lanes;

// How the rows of a format become words, in the formats that do.
//   Half           the type of what is kept of a row before: its largest magnitude, or the scales of its blocks
//   halves(size)   how many
//   step           what a word of 1 stands for, times the factor limit over the largest half
//   group          elements that become words together, in `group_bytes`
//   factor_step    from the factor of a group to that of the next
//   of(p, i, f)    the words of elements i to i + word_chunk of a group, which is at p and has the factor f
template <class Format>
struct Words {
    static constexpr bool exist = false;
};

template <class Element>
struct WordsOfFloats {
    static constexpr bool exist = true;
    using Half = Element;
    static constexpr float step = 1;
    static constexpr std::int64_t group = word_chunk, group_bytes = 2 * group, factor_step = 0;
    static constexpr std::int64_t halves(std::int64_t) { return 1; }
    static std::uint16_t half(const std::uint8_t* row, std::int64_t size, std::int64_t) {
        return largest_magnitude(reinterpret_cast<const std::uint16_t*>(row), size);
    }
    static F factor(F, F inverse) { return inverse; }
    static F of(const std::uint8_t* p, std::int64_t i, F factor) {
        F x[2];
        Plain<Element>::template load_vectors<2>(p, i, x);
        return pack(x[0] * factor, x[1] * factor);
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
    static constexpr std::int64_t group = 32, group_bytes = Format::block_bytes, factor_step = short_tile;
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
    static F of(const std::uint8_t* p, std::int64_t i, F factor) {
        return multiply_high(Words<Format>::shifted(p + 2, i), factor);
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
        using Of = Words<Format>;
        const std::uint8_t* from = row(j);
        const float* factor = factors + j;
        for (const float* const end = to + size / 2; to < end; to += Of::group / 2) {
            const F of_group = set(*factor);
            repeat<Of::group / word_chunk>(
                [&](auto c) { store(to + c * lanes, Of::of(from, c * word_chunk, of_group)); });
            from += Of::group_bytes;
            factor += Of::factor_step;
        }
    }
    // The words of a group of each position, beside those of the position that their weights are paired with:
    // word_chunk of all positions, then the next word_chunk. Asks for `next` meanwhile.
    [[gnu::always_inline]] void unpack_pairs(std::int64_t group, float* to, const Ahead& next) const {
        using Of = Words<Format>;
        const float* const of_group = factors + group * Of::factor_step;
        const std::int64_t first = group * Of::group_bytes;
        for (std::int64_t j = 0, u = 0; j < short_tile; j += lanes) {
            for (const std::int64_t end = j + lanes; j < end; ++j, ++u, to += word_chunk) {
                ask_for(part_of(next, u, short_units));
                const std::uint8_t *const a = row(j) + first, *const b = row(j + lanes) + first;
                const F factor_a = set(of_group[j]), factor_b = set(of_group[j + lanes]);
                repeat<Of::group / word_chunk>([&](auto c) {
                    F pairs[2];
                    interleave(Of::of(a, c * word_chunk, factor_a), Of::of(b, c * word_chunk, factor_b), pairs);
                    store(to + c * (short_units * word_chunk), pairs[0]);
                    store(to + c * (short_units * word_chunk) + lanes, pairs[1]);
                });
            }
        }
    }
};

}  // namespace
}  // namespace attention::SIMD_TARGET
