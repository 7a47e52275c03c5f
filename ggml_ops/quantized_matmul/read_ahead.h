// Prefetching of weights, which are read once in a matmul.
#pragma once

#include <cstdint>

#include "formats/unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// How many bytes ahead of its use a weight is prefetched. The hardware prefetcher stops at the end of a 4 KiB page,
// which is the page size of a mapped file.
inline constexpr std::int64_t read_ahead = 8192;

template <class Weights>
void prefetch_block(const std::uint8_t* p) {
    for (int i = 0; i < super_block_bytes<Weights>(); i += 64)
        prefetch(reinterpret_cast<const float*>(p + read_ahead + i));
}

// Into the second level of the cache, for what comes later.
inline void read_ahead_of_panel(const std::uint8_t* p, int bytes) {
    for (int i = 0; i < bytes; i += 64) prefetch_second_level(reinterpret_cast<const float*>(p + i));
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
