#include "matmul_epilogue.h"

#include "../float_matmul/float_matmul.h"
#include "../simd/best_target.h"

namespace {

const float_matmul::Target& best_target() {
    static const float_matmul::Target* const chosen = simd::best_target(float_matmul::targets());
    return *chosen;  // the last target runs everywhere, whatever the limit
}

// The next node that computes something; the number of nodes if there is none.
int next_node(const ggml_cgraph* graph, int node) {
    do ++node;
    while (node < graph->n_nodes && ggml_op_is_empty(graph->nodes[node]->op));
    return node;
}

// Whether `node` replaces the elements of `result`, of which nothing else is left then.
bool replaces(const ggml_tensor* node, const ggml_tensor* result) {
    return (node->flags & GGML_TENSOR_FLAG_COMPUTE) && node->src[0] == result && node->data == result->data &&
           node->type == GGML_TYPE_F32 && ggml_are_same_layout(node, result);
}

bool is_bias(const ggml_tensor* t, const ggml_tensor* result) {
    return t->type == GGML_TYPE_F32 && t->op == GGML_OP_NONE && t->ne[0] == result->ne[0] && ggml_nrows(t) == 1 &&
           t->nb[0] == sizeof(float);
}

bool is_summand(const ggml_tensor* t, const ggml_tensor* result) {
    return t->type == GGML_TYPE_F32 && ggml_are_same_shape(t, result) && t->nb[0] == sizeof(float) &&
           t->data != result->data;
}

}  // namespace

MatmulEpilogue MatmulEpilogue::find(const ggml_cgraph* graph, int first) {
    MatmulEpilogue found;
    const ggml_tensor* result = graph->nodes[first];
    if (result->ne[2] * result->ne[3] != 1) return found;
    int i = next_node(graph, first);
    if (i < graph->n_nodes && graph->nodes[i]->op == GGML_OP_ADD && replaces(graph->nodes[i], result) &&
        is_bias(graph->nodes[i]->src[1], result)) {
        found.bias = static_cast<const float*>(graph->nodes[i]->src[1]->data);
        found.last = i;
        result = graph->nodes[i];
        i = next_node(graph, i);
    }
    if (i >= graph->n_nodes || !replaces(graph->nodes[i], result)) return found;
    const ggml_tensor* node = graph->nodes[i];
    if (node->op == GGML_OP_UNARY && ggml_get_unary_op(node) == GGML_UNARY_OP_GELU) {
        found.gelu = true;
        found.last = i;
    } else if (node->op == GGML_OP_ADD && is_summand(node->src[1], result)) {
        found.summand = node->src[1];
        found.last = i;
    }
    return found;
}

void MatmulEpilogue::finish(float* out, int64_t column, int64_t row, int64_t rows) const {
    const float* other = nullptr;
    if (summand)
        other = reinterpret_cast<const float*>(static_cast<char*>(summand->data) + column * summand->nb[1]) + row;
    best_target().finish({out, bias ? bias + row : nullptr, other, gelu, rows});
}
