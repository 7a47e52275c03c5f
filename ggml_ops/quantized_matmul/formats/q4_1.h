// Q4_1: d, a minimum and 16 bytes, eight times in a super-block. Layout: ggml-common.h.
#pragma once

#include "blocks_of_32.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

using Q41 = BlocksOf32<Format::q4_1, 4, true>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
