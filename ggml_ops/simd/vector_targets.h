// The list of targets of kernels that are compiled once for each set of vectors.
#pragma once

namespace simd {
namespace {  // else a program that loads two libraries with these kernels would have one list of both

// Those that are compiled in, best first; the last one runs anywhere. The others need not exist.
template <auto* Avx512, auto* Avx2, auto* Neon, auto* Portable>
constexpr decltype(Portable) vector_targets[] = {
#if defined(SIMD_X86)
    Avx512,
    Avx2,
#elif defined(SIMD_ARM64)
    Neon,
#endif
    Portable,
};

}  // namespace
}  // namespace simd
