// From ggml tensors to the pointers and strides of the kernels in ggml_ops/delta_net, which do not depend on ggml. Work
// is split over heads and value rows, so that 16 heads can use more than 16 threads.

#include "ggml_delta_net.h"

#include <algorithm>
#include <cmath>

#include "../delta_net/delta_net.h"
#include "../simd/best_target.h"
#include "ggml-cpu-impl.h"
#include "ggml-impl.h"

namespace {

constexpr size_t padding = 64;  // bytes between the scratch memories of two threads

// The best target that this processor supports and QWEN35_CPU allows; the portable one always is.
const delta_net::Target& best_target() {
    static const delta_net::Target* chosen = simd::best_target(delta_net::targets());
    return *chosen;
}

const delta_net::Target& target_for(int64_t size) { return delta_net::for_size(best_target(), size); }

int64_t floats(size_t bytes) { return static_cast<int64_t>(bytes / sizeof(float)); }

const float* at(const ggml_tensor* t, int64_t i1, int64_t i3) {
    return reinterpret_cast<const float*>(static_cast<const char*>(t->data) + i1 * t->nb[1] + i3 * t->nb[3]);
}

}  // namespace

size_t ggml_delta_net_work_size(const ggml_tensor* op, int n_tasks) {
    const int64_t size = op->src[2]->ne[0];
    return (target_for(size).scratch_floats(size) * sizeof(float) + padding) * n_tasks;
}

void ggml_delta_net_forward(const ggml_compute_params* params, ggml_tensor* dst) {
    const ggml_tensor* q = dst->src[0];
    const ggml_tensor* k = dst->src[1];
    const ggml_tensor* v = dst->src[2];
    const ggml_tensor* g = dst->src[3];
    const ggml_tensor* beta = dst->src[4];
    const ggml_tensor* state = dst->src[5];

    const int64_t size = v->ne[0];
    const int64_t heads = v->ne[1];
    const int64_t tokens = v->ne[2];
    const int64_t seqs = v->ne[3];
    const int64_t slots = ggml_get_op_params_i32(dst, 0);

    // In place, the old state of a sequence is one row of the state cache and the new states are other rows of it.
    const bool in_place = ggml_get_op_params_i32(dst, 1) != 0;
    const int64_t first_row = ggml_get_op_params_i32(dst, 2);
    const int64_t slot_rows = ggml_get_op_params_i32(dst, 3);
    const int32_t* const sources = in_place ? static_cast<const int32_t*>(dst->src[6]->data) : nullptr;

    GGML_ASSERT(q->nb[0] == sizeof(float) && k->nb[0] == sizeof(float) && v->nb[0] == sizeof(float));
    GGML_ASSERT(ggml_is_contiguous(g) && ggml_is_contiguous(beta) && ggml_is_contiguous(state));
    GGML_ASSERT(q->type == GGML_TYPE_F32 && state->type == GGML_TYPE_F32);

    const delta_net::Target& target = target_for(size);
    const size_t scratch_bytes = target.scratch_floats(size) * sizeof(float) + padding;
    float* scratch = reinterpret_cast<float*>(static_cast<char*>(params->wdata) + params->ith * scratch_bytes);

    // Otherwise dst holds the attention output, followed by the new states, the newest first.
    const int64_t state_size = size * size * heads;
    const float* old_states = static_cast<const float*>(state->data);
    float* new_states = in_place ? static_cast<float*>(state->data) + first_row * state_size
                                 : static_cast<float*>(dst->data) + size * heads * tokens * seqs;

    const int64_t unit = delta_net::row_granularity;
    const int64_t groups = (size + unit - 1) / unit;
    const int64_t items = groups * heads * seqs;

    int64_t item = items * params->ith / params->nth;
    const int64_t end = items * (params->ith + 1) / params->nth;
    while (item < end) {
        const int64_t is = item / (groups * heads);
        const int64_t ih = item / groups % heads;
        const int64_t first_group = item % groups;
        const int64_t last_group = std::min(groups, first_group + end - item);

        delta_net::Head head = {};
        head.tokens = tokens;
        head.size = size;
        head.q = at(q, ih % q->ne[1], is * q->ne[3] / seqs);
        head.k = at(k, ih % k->ne[1], is * k->ne[3] / seqs);
        head.v = at(v, ih, is);
        head.gate = at(g, ih, is);
        head.beta = at(beta, ih, is);
        head.out = static_cast<float*>(dst->data) + (is * tokens * heads + ih) * size;
        head.q_step = floats(q->nb[2]);
        head.k_step = floats(k->nb[2]);
        head.v_step = floats(v->nb[2]);
        head.gate_step = floats(g->nb[2]);
        head.beta_step = floats(beta->nb[2]);
        head.out_step = heads * size;
        head.gate_per_column = g->ne[0] == size && size > 1;
        head.scale = 1.0f / sqrtf(static_cast<float>(size));
        head.state = old_states + (in_place ? sources[is] : is) * state_size + ih * size * size;
        head.new_state = new_states + is * state_size + ih * size * size;
        head.snapshots = slots;
        head.snapshot_step = in_place ? slot_rows * state_size : seqs * state_size;
        head.first_row = first_group * unit;
        head.rows = std::min(size, last_group * unit) - head.first_row;
        head.scratch = scratch;
        target.gated_delta_rule(head);

        item += last_group - first_group;
    }
}

void ggml_conv_silu_in_place_forward(const ggml_compute_params* params, ggml_tensor* dst) {
    const ggml_tensor* x = dst->src[0];
    const ggml_tensor* kernel = dst->src[1];
    const ggml_tensor* states = dst->src[2];

    const int64_t channels = x->ne[0];
    const int64_t tokens = x->ne[1];
    const int64_t seqs = x->ne[2];
    const int64_t past = kernel->ne[0] - 1;
    const int64_t slots = ggml_get_op_params_i32(dst, 0);
    const int64_t first_row = ggml_get_op_params_i32(dst, 2);
    const int64_t slot_rows = ggml_get_op_params_i32(dst, 3);
    const int32_t* const sources = static_cast<const int32_t*>(dst->src[3]->data);
    const int64_t step = floats(x->nb[1]);

    // The old state is copied, because a slot may overwrite it.
    constexpr int64_t block = 64;
    constexpr int64_t max_past = 7;
    float before[block * max_past];

    const int64_t blocks = (channels + block - 1) / block;
    const int64_t end = blocks * seqs * (params->ith + 1) / params->nth;
    for (int64_t item = blocks * seqs * params->ith / params->nth; item < end; ++item) {
        const int64_t seq = item / blocks;
        const int64_t first = item % blocks * block;
        const int64_t count = std::min(block, channels - first);
        const float* values = static_cast<const float*>(x->data) + seq * floats(x->nb[2]);
        const float* old_state = static_cast<const float*>(states->data) + sources[seq] * past * channels;
        float* new_state = static_cast<float*>(states->data) + (first_row + seq) * past * channels;
        std::copy_n(old_state + first * past, count * past, before);

        delta_net::Convolution job = {};
        job.tokens = tokens;
        job.kernel_size = past + 1;
        job.x = values + first;
        job.weight = static_cast<const float*>(kernel->data) + first * (past + 1);
        job.state = before;
        job.new_state = new_state + first * past;
        job.out = static_cast<float*>(dst->data) + seq * tokens * channels + first;
        job.x_step = step;
        job.out_step = channels;
        job.channels = count;
        best_target().causal_conv1d_silu(job);

        // The state as it was `age` tokens before the last. Older ones are never rolled back to: the delta rule does
        // not keep them, either. For a single token they would take as long as the convolution of six.
        for (int64_t age = 1; age < std::min(slots, tokens); ++age) {
            float* slot = new_state + age * slot_rows * past * channels + first * past;
            const int64_t newest = tokens - 1 - age;
            for (int64_t i = 0; i < count; ++i) {
                for (int64_t j = 0; j < past; ++j) {
                    const int64_t t = newest - (past - 1) + j;
                    slot[i * past + j] = t >= 0 ? values[t * step + first + i] : before[i * past + past + t];
                }
            }
        }
    }
}
