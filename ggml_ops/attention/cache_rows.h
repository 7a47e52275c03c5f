// The types of keys and values: how some vectors of a row are loaded as floats.
#pragma once

#include <cstdint>
#include <cstring>

#include "../simd/repeat.h"
#include "../simd/vector.h"
#include "attention.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr std::int64_t short_tile = 64;               // positions that small blocks take together
inline constexpr std::int64_t short_units = short_tile / 2;  // pairs of these

template <class Element>
struct Plain {
    static constexpr std::int64_t bytes_of(std::int64_t size) {
        return size * static_cast<std::int64_t>(sizeof(Element));
    }
    // Vectors of elements from i on.
    template <int Vectors>
    [[gnu::always_inline]] static void load_vectors(const std::uint8_t* row, std::int64_t i, F (&x)[Vectors]) {
        repeat<Vectors>([&](auto v) { x[v] = load(reinterpret_cast<const Element*>(row) + i + v * lanes); });
    }
};

// Blocks of 32 values with a scale in FP16. Without a cast to a struct: blocks are not aligned.
inline F block_scale(const std::uint8_t* block) {
    std::uint16_t half;
    std::memcpy(&half, block, sizeof half);
    return from_fp16(set(static_cast<std::int32_t>(half)));
}

struct Q8_0 {
    static constexpr std::int64_t block_bytes = 34;
    static constexpr std::int64_t bytes_of(std::int64_t size) { return size / 32 * block_bytes; }
    static I integers(const std::uint8_t* block, std::int64_t i) {
        return load(reinterpret_cast<const std::int8_t*>(block + 2 + i));
    }
    template <int Vectors>
    [[gnu::always_inline]] static void load_vectors(const std::uint8_t* row, std::int64_t i, F (&x)[Vectors]);
};

struct Q4_0 {
    static constexpr std::int64_t block_bytes = 18;
    static constexpr std::int64_t bytes_of(std::int64_t size) { return size / 32 * block_bytes; }
    // The first 16 values are in the low nibbles.
    static I integers(const std::uint8_t* block, std::int64_t i) {
        const I packed = load(reinterpret_cast<const std::int8_t*>(block + 2 + i % 16));
        return ((i < 16 ? packed : shift_right<4>(packed)) & set(15)) - set(8);
    }
    template <int Vectors>
    [[gnu::always_inline]] static void load_vectors(const std::uint8_t* row, std::int64_t i, F (&x)[Vectors]);
};

// Vectors from element i on, which is a multiple of Vectors * lanes or of 32.
template <class Format, int Vectors>
[[gnu::always_inline]] inline void load_blocks(const std::uint8_t* row, std::int64_t i, F (&x)[Vectors]) {
    constexpr int per_block = 32 / lanes;
    static_assert(Vectors < per_block || Vectors % per_block == 0);
    const std::uint8_t* const block = row + i / 32 * Format::block_bytes;
    if constexpr (Vectors >= per_block) {
        repeat<Vectors / per_block>([&](auto b) {
            const F scale = block_scale(block + b * Format::block_bytes);
            repeat<per_block>([&](auto j) {
                x[b * per_block + j] = to_float(Format::integers(block + b * Format::block_bytes, j * lanes)) * scale;
            });
        });
    } else {
        const F scale = block_scale(block);
        repeat<Vectors>([&](auto v) { x[v] = to_float(Format::integers(block, i % 32 + v * lanes)) * scale; });
    }
}
template <int Vectors>
[[gnu::always_inline]] inline void Q8_0::load_vectors(const std::uint8_t* row, std::int64_t i, F (&x)[Vectors]) {
    load_blocks<Q8_0, Vectors>(row, i, x);
}
template <int Vectors>
[[gnu::always_inline]] inline void Q4_0::load_vectors(const std::uint8_t* row, std::int64_t i, F (&x)[Vectors]) {
    load_blocks<Q4_0, Vectors>(row, i, x);
}

// Calls f with the format of a type.
template <class Function>
inline void for_type(Type type, const Function& f) {
    switch (type) {
        case Type::f32: return f(Plain<float>{});
        case Type::f16: return f(Plain<Float16>{});
        case Type::bf16: return f(Plain<BFloat16>{});
        case Type::q8_0: return f(Q8_0{});
        case Type::q4_0: return f(Q4_0{});
    }
}

constexpr std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

inline void prefetch_row(const std::uint8_t* row, std::int64_t bytes) {
    for (std::int64_t i = 0; i < bytes; i += 64) prefetch(reinterpret_cast<const float*>(row + i));
}

// A whole row as floats; up to a multiple of 2 * lanes, zeros.
template <class Format>
void unpack_row(const std::uint8_t* row, std::int64_t size, float* x) {
    constexpr int step = 2 * lanes;
    const std::int64_t whole = size / step * step;
    for (std::int64_t i = 0; i < whole; i += step) {
        F two[2];
        Format::template load_vectors<2>(row, i, two);
        store(x + i, two[0]);
        store(x + i + lanes, two[1]);
    }
    if (whole == size) return;
    alignas(64) std::uint8_t tail[step * sizeof(float)] = {};
    const std::int64_t before = Format::bytes_of(whole);
    std::memcpy(tail, row + before, static_cast<std::size_t>(Format::bytes_of(size) - before));
    F two[2];
    Format::template load_vectors<2>(tail, 0, two);
    store(x + whole, two[0]);
    store(x + whole + lanes, two[1]);
}

}  // namespace
}  // namespace attention::SIMD_TARGET
