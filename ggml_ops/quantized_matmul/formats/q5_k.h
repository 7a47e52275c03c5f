// Q5_K is Q4_K with 32 bytes more, of fifth bits.
#pragma once

#include "q4_k.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

using Q5K = FourOrFiveBits<5>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
