// Graph builders of the operations that update recurrent states in place; ggml.h declares them.

#include "ggml-impl.h"
#include "ggml.h"

namespace {

void check_rows(const ggml_tensor* states, const ggml_tensor* ids, int64_t seqs, int64_t row, int64_t slot_rows,
                int64_t snapshots) {
    GGML_ASSERT(ids->type == GGML_TYPE_I32 && ids->ne[0] == seqs && ggml_is_contiguous(ids));
    GGML_ASSERT(snapshots >= 1 && (snapshots == 1 || seqs <= slot_rows));
    GGML_ASSERT(row + seqs - 1 + (snapshots - 1) * slot_rows < states->ne[1]);
}

// Where the new states go: the snapshot of age i of sequence s to row `row + s + i * slot_rows` of the state cache.
void set_in_place_params(ggml_tensor* result, int64_t snapshots, int64_t row, int64_t slot_rows) {
    const int32_t params[] = {static_cast<int32_t>(snapshots), 1, static_cast<int32_t>(row),
                              static_cast<int32_t>(slot_rows)};
    ggml_set_op_params(result, params, sizeof(params));
}

}  // namespace

ggml_tensor* ggml_gated_delta_net_in_place(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                                           ggml_tensor* g, ggml_tensor* beta, ggml_tensor* states, ggml_tensor* ids,
                                           int64_t row, int64_t slot_rows, int64_t K) {
    const int64_t S_v = v->ne[0];
    const int64_t H = v->ne[1];

    GGML_ASSERT(states->ne[0] == S_v * S_v * H);
    check_rows(states, ids, v->ne[3], row, slot_rows, K);

    GGML_ASSERT(q->type == GGML_TYPE_F32 && ggml_is_contiguous_rows(q));
    GGML_ASSERT(k->type == GGML_TYPE_F32 && ggml_is_contiguous_rows(k));
    GGML_ASSERT(v->type == GGML_TYPE_F32 && ggml_is_contiguous_rows(v));
    GGML_ASSERT(g->type == GGML_TYPE_F32 && ggml_is_contiguous(g) && (g->ne[0] == 1 || g->ne[0] == S_v));
    GGML_ASSERT(beta->type == GGML_TYPE_F32 && ggml_is_contiguous(beta) && beta->ne[0] == 1);
    GGML_ASSERT(states->type == GGML_TYPE_F32 && ggml_is_contiguous(states));

    ggml_tensor* result = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, S_v * H, v->ne[2] * v->ne[3]);
    set_in_place_params(result, K, row, slot_rows);

    result->op = GGML_OP_GATED_DELTA_NET;
    result->src[0] = q;
    result->src[1] = k;
    result->src[2] = v;
    result->src[3] = g;
    result->src[4] = beta;
    result->src[5] = states;
    result->src[6] = ids;
    return result;
}

ggml_tensor* ggml_ssm_conv_silu_in_place(ggml_context* ctx, ggml_tensor* x, ggml_tensor* c, ggml_tensor* states,
                                         ggml_tensor* ids, int64_t row, int64_t slot_rows, int64_t K) {
    GGML_ASSERT(x->type == GGML_TYPE_F32 && ggml_is_contiguous_rows(x) && x->ne[3] == 1);
    GGML_ASSERT(c->type == GGML_TYPE_F32 && ggml_is_contiguous(c) && ggml_is_matrix(c));
    GGML_ASSERT(c->ne[0] >= 2 && c->ne[0] <= 8 && c->ne[1] == x->ne[0]);
    GGML_ASSERT(states->type == GGML_TYPE_F32 && ggml_is_contiguous(states));
    GGML_ASSERT(states->ne[0] == (c->ne[0] - 1) * x->ne[0]);
    check_rows(states, ids, x->ne[2], row, slot_rows, K);

    ggml_tensor* result = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, x->ne[0], x->ne[1], x->ne[2]);
    set_in_place_params(result, K, row, slot_rows);

    result->op = GGML_OP_SSM_CONV;
    result->src[0] = x;
    result->src[1] = c;
    result->src[2] = states;
    result->src[3] = ids;
    return result;
}
