// Which targets are compiled in, and how large things are.

#include "activations.h"
#include "targets.h"

namespace quantized_matmul {
namespace {

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
    const std::int64_t scales = k / activations_per_scale(format);
    const auto bytes = static_cast<std::size_t>(scales_offset(k) + floats_bytes(scales));
    return (bytes + 63) / 64 * 64;
}

bool same_activations(Format a, Format b) { return activations_per_scale(a) == activations_per_scale(b); }

simd::Span<const Target* const> targets() {
#if defined(SIMD_X86)
    return compiled;
#else
    return {};
#endif
}

}  // namespace quantized_matmul
