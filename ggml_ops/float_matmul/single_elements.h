// Elements that are one float: F32 and F16 weights. See elements.h.
#pragma once

#include "../simd/vector.h"

namespace float_matmul::SIMD_TARGET {
namespace {

using namespace simd;

struct F32Elements {
    using Weight = float;
    static constexpr int values = 1;
    static F load(const Weight* p) { return simd::load(p); }
    static F multiply(F w, F x, F sum) { return fma(w, x, sum); }
    static F round(const float* p) { return simd::load(p); }
};

struct F16Elements : F32Elements {
    using Weight = Float16;
    static F load(const Weight* p) { return simd::load(p); }
    static F round(const float* p) { return from_fp16(to_fp16(simd::load(p))); }
};

}  // namespace
}  // namespace float_matmul::SIMD_TARGET
