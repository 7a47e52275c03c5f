// Loops that are unrolled before anything else: GCC keeps an array of vectors in registers only if every index is a
// constant to begin with.
#pragma once

#include <utility>

namespace simd {
namespace {

template <class Function, int... I>
[[gnu::always_inline]] inline void repeat_for(const Function& f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>{}), ...);
}

// Calls f(0) to f(Count - 1); the arguments are constants.
template <int Count, class Function>
[[gnu::always_inline]] inline void repeat(const Function& f) {
    repeat_for(f, std::make_integer_sequence<int, Count>{});
}

}  // namespace
}  // namespace simd
