// Which targets are compiled in, and how large things are.

#include "targets.h"

namespace attention {
namespace {

const Target* const compiled[] = {
#if defined(SIMD_X86)
    &target_avx512vnni, &target_avx512,
#if !defined(SIMD_NO_AVXVNNI)
    &target_avxvnni,
#endif
    &target_avx2,
#elif defined(SIMD_ARM64)
    &target_neon,
#endif
    &target_portable,
};

}  // namespace

std::size_t row_bytes(Type type, std::int64_t size) {
    const auto n = static_cast<std::size_t>(size);
    switch (type) {
        case Type::f32: return n * 4;
        case Type::f16:
        case Type::bf16: return n * 2;
        case Type::q8_0: return n / 32 * 34;
        case Type::q4_0: return n / 32 * 18;
    }
    return 0;
}

simd::Span<const Target* const> targets() { return compiled; }

}  // namespace attention
