// Which targets are compiled in.

#include "targets.h"

namespace float_matmul {
namespace {

const Target* const compiled[] = {
#if defined(SIMD_X86)
#if !defined(FLOAT_MATMUL_NO_AVX512BF16)
    &target_avx512bf16,
#endif
    &target_avx512,
    &target_avx2,
#elif defined(SIMD_ARM64)
    &target_neon,
#endif
    &target_portable,
};

}  // namespace

std::size_t weight_bytes(Format format) { return format == Format::f32 ? 4 : 2; }

simd::Span<const Target* const> targets() { return compiled; }

}  // namespace float_matmul
