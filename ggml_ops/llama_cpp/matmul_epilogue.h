// The nodes that follow a matmul and change its result element by element, in place: a bias, then GELU or a second
// summand. Each share of a matmul is finished while it is in the cache.
#pragma once

#include <cstdint>

#include "ggml-impl.h"
#include "ggml.h"

struct MatmulEpilogue {
    const float* bias = nullptr;
    const ggml_tensor* summand = nullptr;
    bool gelu = false;
    int last = -1;  // the last node of the graph that it covers; -1: there is nothing to finish

    // What follows node `first` of a graph, a matmul of matrices.
    static MatmulEpilogue find(const ggml_cgraph* graph, int first);

    // Rows from `row` on of a column of the matmul, at `out`.
    void finish(float* out, int64_t column, int64_t row, int64_t rows) const;
};
