// Blocks of 32 weights with a scale, some with a min, some with fifth bits, and 16 bytes: the first 16 weights in their
// low nibbles, the others in the high ones. Eight blocks make a super-block. Layouts: ggml-common.h.
#pragma once

#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

template <Format Name, int Bits, bool HasMins>
struct BlocksOf32 {
    static constexpr Format format = Name;
    static constexpr int values_per_scale = 32;
    static constexpr bool narrow = true;
    static constexpr int most = (1 << Bits) - 1;
    static constexpr int offset = HasMins ? 0 : 1 << (Bits - 1);
    static constexpr bool has_mins = HasMins;

    const std::uint8_t* p;

    explicit BlocksOf32(const std::uint8_t* block) : p(block) {}

    template <int Half>
    void unpack(B (&q)[vectors]) const {
        const std::uint8_t* const first = p + 4 * bytes * Half;
        gather_nibbles<bytes>(first + bytes - 16, q);
        if constexpr (Bits == 5) gather_fifth_bits<bytes>(first + bytes - 20, q);
    }
    F scales() const { return eight_fp16_at<bytes>(p); }
    F mins() const { return -eight_fp16_at<bytes>(p + 2); }  // which the file adds

private:
    static constexpr int bytes = row_of(Name).block_bytes;
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
