// Single values: FP16, BF16, and a fused multiply-add. Internal linkage, as in the vector headers: every target has its
// own copy, compiled with its own flags, so that the linker cannot merge one that uses instructions that another
// processor lacks.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace simd {
namespace {

struct BFloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

template <class To, class From>
inline To bit_cast(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}

// IEEE 754 binary16, exact.
inline float fp16_to_float(std::uint16_t h) {
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000U) << 16;
    const std::uint32_t magnitude = h & 0x7FFFU;
    if (magnitude >= 0x7C00U) return bit_cast<float>(sign | 0x7F800000U | (magnitude & 0x3FFU) << 13);
    // Shifted into place, the exponent is short by 112: a multiplication corrects it, subnormals included.
    const float value = bit_cast<float>(magnitude << 13) * 0x1p112F;
    return bit_cast<float>(sign | bit_cast<std::uint32_t>(value));
}

// Round to nearest, ties to even; beyond 65519 infinity; NaN becomes the quiet one with its sign.
inline std::uint16_t float_to_fp16(float f) {
    const auto all = bit_cast<std::uint32_t>(f);
    const std::uint32_t sign = all >> 16 & 0x8000U;
    const std::uint32_t magnitude = all & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U);
    if (magnitude >= 0x47800000U) return static_cast<std::uint16_t>(sign | 0x7C00U);
    if (magnitude < 0x38800000U) {  // subnormal: let the addition round at the last bit of a half
        const float rounded = bit_cast<float>(magnitude) + 0.5F;
        return static_cast<std::uint16_t>(sign | (bit_cast<std::uint32_t>(rounded) - 0x3F000000U));
    }
    const std::uint32_t odd = magnitude >> 13 & 1U;
    return static_cast<std::uint16_t>(sign | ((magnitude + 0xFFFU + odd - 0x38000000U) >> 13));
}

// a * b + c, rounded once, whether the processor can do it or not. a * b is exact in double. Its sum with
// c is rounded to odd there: to the neighbour whose last bit is set, so that rounding it again to float, which
// has 29 bits less, gives what rounding once does (Boldo and Melquiond 2008).
inline float fused(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
    return std::fma(a, b, c);
#else
    const double exact = static_cast<double>(a) * b;
    const double total = exact + c;
    const double other = total - exact;
    const double lost = (exact - (total - other)) + (c - other);  // of the sum, exactly (Knuth's two-sum)
    auto odd = bit_cast<std::uint64_t>(total);
    if (lost != 0 && std::isfinite(total) && (odd & 1U) == 0) odd += (lost > 0) == (total > 0) ? 1U : ~std::uint64_t{0};
    return static_cast<float>(bit_cast<double>(odd));
#endif
}

}  // namespace
}  // namespace simd
