// Which targets are compiled in, and how large things are.

#include <iterator>

#include "matmul.h"

namespace matmul {

extern const Target target_avx512vnni;
extern const Target target_avxvnni;
extern const Target target_avx2;

namespace {

#include "column.h"

#if defined(SIMD_X86)
const Target* const compiled[] = {
    &target_avx512vnni,
#if !defined(MATMUL_NO_AVXVNNI)
    &target_avxvnni,
#endif
    &target_avx2,
};
#endif

}  // namespace

std::size_t row_bytes(Format format, std::int64_t k) {
    const auto blocks = static_cast<std::size_t>(k / super_block);
    switch (format) {
        case Format::q4_k: return blocks * 144;
        case Format::q5_k: return blocks * 176;
        case Format::q6_k: return blocks * 210;
        case Format::q8_0: return blocks * 8 * 34;
        case Format::iq4_xs: return blocks * 136;
    }
    return 0;
}

std::size_t column_bytes(Format format, std::int64_t k) {
    const std::int64_t scales = k / column_values_a_scale(format);
    const auto bytes = static_cast<std::size_t>(scales_offset(k) + floats_bytes(scales));
    return (bytes + 63) / 64 * 64;
}

bool same_columns(Format a, Format b) { return column_values_a_scale(a) == column_values_a_scale(b); }

const Target* const* targets(std::size_t& count) {
#if defined(SIMD_X86)
    count = std::size(compiled);
    return compiled;
#else
    count = 0;
    return nullptr;
#endif
}

}  // namespace matmul
