// The quantizers of one target. Its source file defines SIMD_TARGET and SIMD_VECTOR (see simd/vector.h) and includes
// this; everything is in the namespace of the target and has internal linkage, so that no function is shared between
// files with different compiler flags. One block is in each lane of a vector.
#pragma once

#include "iq4.h"
#include "kquants.h"
#include "non_finite.h"
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

namespace kquants::SIMD_TARGET {
namespace {

// clang-format off
constexpr Format formats[] = {
    {"Q2_K", 256, 84, quantize_q2_k},      {"Q3_K", 256, 110, quantize_q3_k},   {"Q4_K", 256, 144, quantize_q4_k},
    {"Q5_K", 256, 176, quantize_q5_k},     {"Q6_K", 256, 210, quantize_q6_k},   {"IQ4_XS", 256, 136, quantize_iq4_xs},
    {"IQ4_NL", 32, 18, quantize_iq4_nl},   {"Q8_0", 32, 34, quantize_q8_0},     {"Q4_0", 32, 18, quantize_q4_0},
    {"Q4_1", 32, 20, quantize_q4_1},       {"Q5_0", 32, 22, quantize_q5_0},     {"Q5_1", 32, 24, quantize_q5_1},
};
// clang-format on

}  // namespace
}  // namespace kquants::SIMD_TARGET
