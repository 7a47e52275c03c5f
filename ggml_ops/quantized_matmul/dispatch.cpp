// Which targets are compiled in, and how large things are.

#include "activations.h"
#include "targets.h"

namespace quantized_matmul {
namespace {

const Target* const compiled[] = {
#if defined(SIMD_X86)
    &target_avx512vbmi,
    &target_avx512vnni,
#if !defined(SIMD_NO_AVXVNNI)
    &target_avxvnni,
#endif
    &target_avx2,
#endif
#if defined(SIMD_ARM64)
    &target_i8mm,
    &target_neondot,
#endif
#if defined(MATMUL_REFERENCE)
    &target_portable,
#endif
    nullptr,
};

}  // namespace

std::size_t row_bytes(Format format, std::int64_t k) {
    const FormatRow& row = row_of(format);
    return static_cast<std::size_t>(k / row.block * row.block_bytes);
}

std::size_t column_bytes(Format format, std::int64_t k) {
    const auto whole_lines = [](std::int64_t bytes) { return static_cast<std::size_t>((bytes + 63) / 64 * 64); };
    switch (row_of(format).activations) {
        case Activations::q8_k: return whole_lines(ColumnParts<Activations::q8_k>(k).end);
        case Activations::q8_0: return whole_lines(ColumnParts<Activations::q8_0>(k).end);
        case Activations::q8_1: return whole_lines(ColumnParts<Activations::q8_1>(k).end);
    }
    return 0;
}

std::int64_t column_blocks(std::int64_t k) { return blocks_of(k); }

bool same_activations(Format a, Format b) { return row_of(a).activations == row_of(b).activations; }

simd::Span<const Target* const> targets() {
    return {compiled, sizeof compiled / sizeof compiled[0] - 1};  // without the null, as an array may not be empty
}

}  // namespace quantized_matmul
