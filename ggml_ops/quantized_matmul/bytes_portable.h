// Four bytes in plain C++: the reference for the other targets.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../simd/vector.h"
#include "format_table.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

using namespace simd;

inline constexpr int width = 4;

struct B {
    std::int8_t v[width];
};

inline B load_bytes(const void* p) {
    B a;
    std::memcpy(a.v, p, width);
    return a;
}
inline void store_bytes(void* p, B a) { std::memcpy(p, a.v, width); }

inline I zero_sums() { return {0}; }
inline I dot(I sum, B a, B b) {
    for (int i = 0; i < width; ++i) sum.v += a.v[i] * b.v[i];
    return sum;
}

// The order of the activations of a super-block.
template <Activations>
void arrange(B (&)[64]) {}

inline float total(F a) { return a.v; }
inline std::int32_t total(I a) { return a.v; }
inline I rounded(F a) { return truncate({std::nearbyint(a.v)}); }
inline void store_narrow(std::int8_t* p, I a) { *p = static_cast<std::int8_t>(a.v); }

// 16 bytes: the first 16 of 32 weights in the low nibbles and the others in the high ones; table of 16 values.
inline void look_up_nibbles(const std::uint8_t* p, const std::int8_t (&table)[16], std::int8_t* q) {
    for (int j = 0; j < 16; ++j) {
        q[j] = table[p[j] & 15];
        q[16 + j] = table[p[j] >> 4];
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
