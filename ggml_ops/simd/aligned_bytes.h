// Memory at a multiple of a cache line, for bindings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace simd {

inline constexpr std::align_val_t cache_line{64};

struct FreeAligned {
    void operator()(std::uint8_t* p) const { ::operator delete(p, cache_line); }
};
using AlignedBytes = std::unique_ptr<std::uint8_t[], FreeAligned>;

inline AlignedBytes aligned_bytes(std::size_t size) {
    return AlignedBytes(static_cast<std::uint8_t*>(::operator new(size, cache_line)));
}

}  // namespace simd
