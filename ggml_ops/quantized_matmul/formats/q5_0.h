// Q5_0: d, 32 fifth bits and 16 bytes, eight times in a super-block. Layout: ggml-common.h.
#pragma once

#include "blocks_of_32.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

using Q50 = BlocksOf32<Format::q5_0, 5, false>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
