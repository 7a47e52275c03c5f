// The formats of targets other than x86; block.h says what a format provides.
#pragma once

#include "blocks_of_32.h"
#include "iq.h"
#include "iq4_xs.h"
#include "q2_k.h"
#include "q3_k.h"
#include "q4_k.h"
#include "q6_k.h"
#include "q8_0.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Stands for a format in an argument.
template <class Layout>
struct Of {
    using type = Layout;
};

template <class Work, class... Layouts>
void for_one_of(Format format, const Work& work) {
    static_assert(sizeof...(Layouts) == sizeof format_table / sizeof format_table[0], "a format is missing");
    static_cast<void>(((Layouts::format == format && (work(Of<Layouts>{}), true)) || ...));
}

// Calls work(Of<Layout>{}) for the format that the argument names.
template <class Work>
void for_format(Format format, const Work& work) {
    for_one_of<Work, Q40, Q41, Q50, Q51, Q80, Q2K, Q3K, Q4K, Q5K, Q6K, IQ2XXS, IQ2XS, IQ2S, IQ3XXS, IQ3S, IQ4NL, IQ4XS>(
        format, work);
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
