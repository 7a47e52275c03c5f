// What programs for emulated processors read from stdin and write to stdout: a header for each case, and its arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../simd/aligned_bytes.h"
#include "../simd/find_target.h"

namespace stdin_arrays {

// Read a header; false at the end.
template <class Header>
bool read_header(Header& header) {
    return std::fread(&header, sizeof(Header), 1, stdin) == 1;
}

inline void read_exactly(void* to, std::size_t bytes) {
    if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(3);
}

template <class T = float>
std::vector<T> read(std::int64_t count) {
    std::vector<T> values(static_cast<std::size_t>(count));
    read_exactly(values.data(), values.size() * sizeof(T));
    return values;
}

inline simd::AlignedBytes read_aligned(std::size_t bytes) {
    simd::AlignedBytes values = simd::aligned_bytes(bytes);
    read_exactly(values.get(), bytes);
    return values;
}

template <class T>
void write(const std::vector<T>& values) {
    std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

}  // namespace stdin_arrays
