// Q4_0: d and 16 bytes, eight times in a super-block. Layout: ggml-common.h.
#pragma once

#include "blocks_of_32.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

using Q40 = BlocksOf32<Format::q4_0, 4, false>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
