// Q5_1: d, a minimum, 32 fifth bits and 16 bytes, eight times in a super-block. Layout: ggml-common.h.
#pragma once

#include "blocks_of_32.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

using Q51 = BlocksOf32<Format::q5_1, 5, true>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
