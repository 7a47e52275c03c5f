// What matmuls of quantized and of floating-point weights share: the columns of src1 are converted once, by all
// threads, for consecutive matmuls of it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "matmul_epilogue.h"

inline constexpr int64_t cache_line = 64;

inline size_t padded(size_t bytes) { return GGML_PAD(bytes, cache_line); }

// Calls convert(i, x, first, last) for all columns: pieces first <= p < last of the i-th one, whose floats start at x.
// Each thread has its part; a single column is split as well.
template <class Convert>
void for_columns(const ggml_compute_params* params, const ggml_tensor* src1, int64_t pieces, const Convert& convert) {
    const int64_t total = pieces * ggml_nrows(src1);
    int64_t at = total * params->ith / params->nth;
    const int64_t end = total * (params->ith + 1) / params->nth;
    while (at < end) {
        const int64_t i = at / pieces;
        const int64_t first = at % pieces;
        const int64_t last = std::min(pieces, first + end - at);
        const int64_t i1 = i % src1->ne[1];
        const int64_t i2 = i / src1->ne[1] % src1->ne[2];
        const int64_t i3 = i / (src1->ne[1] * src1->ne[2]);
        const char* x = static_cast<const char*>(src1->data) + i1 * src1->nb[1] + i2 * src1->nb[2] + i3 * src1->nb[3];
        convert(i, reinterpret_cast<const float*>(x), first, last);
        at += last - first;
    }
}

// Computes the node `first` and the following ones, as far as takes(node) says that each is a matmul with kernels, and
// same_columns(node, first node) that both use src1 in the same form; of a single one also what follows it in place.
// multiply(nodes, count, epilogue) computes them. Returns the number of nodes after the first; 0 if there is nothing to
// fuse, and nothing was computed then.
template <class Takes, class SameColumns, class Multiply>
int multiply_consecutive(const ggml_cgraph* graph, int first, const Takes& takes, const SameColumns& same_columns,
                         const Multiply& multiply) {
    constexpr int most = 8;
    ggml_tensor* nodes[most];
    int count = 0;
    int last = first;
    const auto in_host_memory = [](const ggml_tensor* t) {
        return !t->buffer || ggml_backend_buffer_is_host(t->buffer);
    };
    for (int i = first; i < graph->n_nodes && count < most; ++i) {
        ggml_tensor* node = graph->nodes[i];
        if (ggml_op_is_empty(node->op)) continue;
        // src1 is the only operand that the graph can have written: none of these nodes waits for another.
        if (node->op != GGML_OP_MUL_MAT || !(node->flags & GGML_TENSOR_FLAG_COMPUTE) || !takes(node) ||
            node->src[0]->op != GGML_OP_NONE || !in_host_memory(node->src[0]) || ggml_is_empty(node)) {
            break;
        }
        if (count > 0 && (node->src[1] != nodes[0]->src[1] || !same_columns(node, nodes[0]))) break;
        nodes[count++] = node;
        last = i;
    }
    MatmulEpilogue epilogue;
    if (count == 1) {
        epilogue = MatmulEpilogue::find(graph, first);
        last = epilogue.last;
    }
    if (last <= first) return 0;
    multiply(nodes, count, epilogue);
    return last - first;
}
