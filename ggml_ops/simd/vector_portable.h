// One lane: plain C++, for processors without a vector header here, and the reference for testing the others.
// See vector.h for what each function must do.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "scalar.h"

namespace simd::portable {
namespace {

inline constexpr int lanes = 1;

struct F {
    float v;
};
struct I {
    std::int32_t v;
};
struct M {
    bool v;
};

inline F set(float a) { return {a}; }
inline I set(std::int32_t a) { return {a}; }
inline F load(const float* p) { return {*p}; }
inline F load(const BFloat16* p) { return {bit_cast<float>(std::uint32_t{p->bits} << 16)}; }
inline F load(const Float16* p) { return {fp16_to_float(p->bits)}; }
inline I load(const std::int8_t* p) { return {*p}; }
inline void store(float* p, F a) { *p = a.v; }
inline void store(std::int32_t* p, I a) { *p = a.v; }
inline void store_to_memory(float* p, F a) { store(p, a); }
inline void finish_stores_to_memory() {}

inline F operator+(F a, F b) { return {a.v + b.v}; }
inline F operator-(F a, F b) { return {a.v - b.v}; }
inline F operator*(F a, F b) { return {a.v * b.v}; }
inline F operator/(F a, F b) { return {a.v / b.v}; }
inline F operator-(F a) { return {-a.v}; }
inline F sqrt(F a) { return {std::sqrt(a.v)}; }
inline F abs(F a) { return {std::fabs(a.v)}; }
inline F min(F a, F b) { return {a.v < b.v ? a.v : b.v}; }
inline F max(F a, F b) { return {a.v > b.v ? a.v : b.v}; }

inline M operator<(F a, F b) { return {a.v < b.v}; }
inline M operator>(F a, F b) { return {a.v > b.v}; }
inline M operator==(F a, F b) { return {a.v == b.v}; }
inline M operator!=(I a, I b) { return {a.v != b.v}; }
inline M operator&(M a, M b) { return {a.v && b.v}; }
inline M operator|(M a, M b) { return {a.v || b.v}; }
inline M operator!(M a) { return {!a.v}; }
inline bool any(M a) { return a.v; }
inline F select(M m, F a, F b) { return m.v ? a : b; }
inline I select(M m, I a, I b) { return m.v ? a : b; }

// Sums wrap around, as those of vectors do: bits of floats and numbers made of infinities are added, too.
inline I operator+(I a, I b) {
    return {static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v) + static_cast<std::uint32_t>(b.v))};
}
inline I operator-(I a, I b) {
    return {static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v) - static_cast<std::uint32_t>(b.v))};
}
inline I operator&(I a, I b) { return {a.v & b.v}; }
inline I operator|(I a, I b) { return {a.v | b.v}; }
inline I min(I a, I b) { return {a.v < b.v ? a.v : b.v}; }
inline I max(I a, I b) { return {a.v > b.v ? a.v : b.v}; }
template <int N>
I shift_left(I a) {
    return {static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v) << N)};
}
template <int N>
I shift_right(I a) {
    return {static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v) >> N)};
}
template <int N>
I shift_right_signed(I a) {
    return {a.v >> N};
}

inline I bits(F a) { return {bit_cast<std::int32_t>(a.v)}; }
inline F from_bits(I a) { return {bit_cast<float>(a.v)}; }
inline F to_float(I a) { return {static_cast<float>(a.v)}; }
inline I truncate(F a) {
    return {std::fabs(a.v) < 2147483648.F ? static_cast<std::int32_t>(a.v) : std::numeric_limits<std::int32_t>::min()};
}
inline F round_even(F a) { return {(a.v + 12582912.F) - 12582912.F}; }
inline I to_fp16(F a) { return {float_to_fp16(a.v)}; }
inline F from_fp16(I a) { return {fp16_to_float(static_cast<std::uint16_t>(a.v))}; }

inline void transpose(F (&)[1]) {}

inline constexpr bool has_look_up = true;
inline F look_up(const float (&t)[32], I index) { return {t[index.v & 31]}; }

// a * b + c. Rounded twice: a fused one is a slow function where the processor has none.
inline F fma(F a, F b, F c) { return {a.v * b.v + c.v}; }
inline F fused(F a, F b, F c) { return {simd::fused(a.v, b.v, c.v)}; }

// The sums of the elements of each of four vectors.
inline void sums(const F (&v)[4], float (&total)[4]) {
    for (int i = 0; i < 4; ++i) total[i] = v[i].v;
}

// The largest element; none may be NaN.
inline float largest(F a) { return a.v; }

}  // namespace
}  // namespace simd::portable

namespace simd {
namespace isa = portable;
}
