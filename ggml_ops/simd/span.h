// A view of contiguous elements, as std::span of C++20.
#pragma once

#include <cstddef>

namespace simd {

template <class T>
class Span {
public:
    constexpr Span() = default;
    template <std::size_t N>
    constexpr Span(T (&array)[N]) : begin_(array), size_(N) {}

    constexpr Span(T* begin, std::size_t size) : begin_(begin), size_(size) {}

    constexpr T* begin() const { return begin_; }
    constexpr T* end() const { return begin_ + size_; }
    constexpr std::size_t size() const { return size_; }

private:
    T* begin_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace simd
