// All formats that have kernels; unpack.h says what a format provides.
#pragma once

#include "iq2_s.h"
#include "iq2_xs.h"
#include "iq2_xxs.h"
#include "iq3_s.h"
#include "iq3_xxs.h"
#include "iq4_nl.h"
#include "iq4_xs.h"
#include "q2_k.h"
#include "q3_k.h"
#include "q4_0.h"
#include "q4_1.h"
#include "q4_k.h"
#include "q5_0.h"
#include "q5_1.h"
#include "q5_k.h"
#include "q6_k.h"
#include "q8_0.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

template <class... Weights>
struct FormatList {
    static constexpr bool complete = sizeof...(Weights) == sizeof format_table / sizeof format_table[0];
};

using Formats =
    FormatList<Q40, Q41, Q50, Q51, Q80, Q2K, Q3K, Q4K, Q5K, Q6K, IQ2XXS, IQ2XS, IQ2S, IQ3XXS, IQ3S, IQ4NL, IQ4XS>;
static_assert(Formats::complete, "a row of format_table.h has no struct here, or the other way round");

// Stands for a format in an argument.
template <class Weights>
struct Of {
    using type = Weights;
};

template <class Work, class... Weights>
void for_one(FormatList<Weights...> /*all*/, Format format, const Work& work) {
    static_cast<void>(((Weights::format == format && (work(Of<Weights>{}), true)) || ...));
}

// Calls work(Of<Weights>{}) for the format that the argument names.
template <class Work>
void for_format(Format format, const Work& work) {
    for_one(Formats{}, format, work);
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
