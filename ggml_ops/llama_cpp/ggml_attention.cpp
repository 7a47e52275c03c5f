// From ggml tensors to the pointers and steps of the kernels in ggml_ops/attention, which do not depend on ggml.
//
// The work buffer contains the slopes of the heads, then what attention::Plan asks for.

#include "ggml_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../attention/problem.h"
#include "../simd/best_target.h"
#include "ggml-cpu-impl.h"
#include "ggml-impl.h"

namespace {

constexpr size_t cache_line = 64;

// The best target that this processor supports and QWEN35_CPU allows; null where ggml's own kernels are better than
// portable ones.
const attention::Target* best_target() {
    static const attention::Target* chosen = [] {
        const attention::Target* best = simd::best_target(attention::targets());
        return best && std::strcmp(best->name, "portable") != 0 ? best : nullptr;
    }();
    return chosen;
}

bool find_type(ggml_type from, attention::Type& type) {
    // clang-format off
    switch (from) {
        case GGML_TYPE_F32:  type = attention::Type::f32;  return true;
        case GGML_TYPE_F16:  type = attention::Type::f16;  return true;
        case GGML_TYPE_BF16: type = attention::Type::bf16; return true;
        case GGML_TYPE_Q8_0: type = attention::Type::q8_0; return true;
        case GGML_TYPE_Q4_0: type = attention::Type::q4_0; return true;
        default:             return false;
    }
    // clang-format on
}

int64_t floats(size_t bytes) { return static_cast<int64_t>(bytes / sizeof(float)); }
int64_t halves(size_t bytes) { return static_cast<int64_t>(bytes / sizeof(ggml_fp16_t)); }
size_t padded(size_t bytes) { return GGML_PAD(bytes, cache_line); }

attention::CacheTensor cache_of(const ggml_tensor* t) {
    attention::CacheTensor cache{};
    find_type(t->type, cache.type);
    cache.size = t->ne[0];
    cache.rows = static_cast<const uint8_t*>(t->data);
    cache.position_step = static_cast<int64_t>(t->nb[1]);
    cache.head_step = static_cast<int64_t>(t->nb[2]);
    cache.stream_step = static_cast<int64_t>(t->nb[3]);
    return cache;
}

float parameter(const ggml_tensor* op, int i) {
    float value;
    std::memcpy(&value, reinterpret_cast<const char*>(op->op_params) + i * sizeof(float), sizeof value);
    return value;
}

attention::Problem problem_of(const ggml_tensor* op) {
    const ggml_tensor* q = op->src[0];
    const ggml_tensor* k = op->src[1];
    const ggml_tensor* mask = op->src[3];
    const ggml_tensor* sinks = op->src[4];
    attention::Problem problem{};
    problem.streams = q->ne[3];
    problem.tokens = q->ne[1];
    problem.cache_heads = k->ne[2];
    problem.group = q->ne[2] / k->ne[2];
    problem.positions = k->ne[1];
    problem.q = {static_cast<const float*>(q->data), floats(q->nb[1]), floats(q->nb[2]), floats(q->nb[3])};
    problem.k = cache_of(k);
    problem.v = cache_of(op->src[2]);
    if (mask) {
        problem.mask = {static_cast<const uint16_t*>(mask->data), halves(mask->nb[1]),
                        mask->ne[2] > 1 ? halves(mask->nb[2]) : 0, mask->ne[3] > 1 ? halves(mask->nb[3]) : 0};
    }
    if (sinks) problem.sinks = static_cast<const float*>(sinks->data);
    problem.scale = parameter(op, 0);
    problem.softcap = parameter(op, 2);
    // The result is tokens x heads.
    problem.out = {static_cast<float*>(op->data), floats(op->nb[2]), floats(op->nb[1]), floats(op->nb[3])};
    return problem;
}

// Press, Smith and Lewis, Train Short, Test Long, arXiv:2108.12409, for any number of heads as ggml has it.
void fill_slopes(int64_t heads, float max_bias, float* slopes) {
    const int64_t power = int64_t{1} << static_cast<int>(std::floor(std::log2(static_cast<double>(heads))));
    const float first = std::pow(2.0F, -max_bias / static_cast<float>(power));
    const float rest = std::pow(2.0F, -max_bias / 2.0F / static_cast<float>(power));
    for (int64_t h = 0; h < heads; ++h) {
        slopes[h] = h < power ? std::pow(first, static_cast<float>(h + 1))
                              : std::pow(rest, static_cast<float>(2 * (h - power) + 1));
    }
}

bool rows_fit(const ggml_tensor* t) {
    attention::Type type;
    return find_type(t->type, type) && t->nb[0] == ggml_type_size(t->type);
}

}  // namespace

bool ggml_attention_supported(const ggml_tensor* op) {
    const ggml_tensor* q = op->src[0];
    const ggml_tensor* k = op->src[1];
    const ggml_tensor* v = op->src[2];
    const ggml_tensor* mask = op->src[3];
    if (!best_target() || q->type != GGML_TYPE_F32 || !rows_fit(q) || !rows_fit(k) || !rows_fit(v)) return false;
    if (k->ne[2] != v->ne[2] || q->ne[2] % k->ne[2] != 0 || k->ne[3] != q->ne[3] || v->ne[3] != q->ne[3]) return false;
    if (q->nb[1] % sizeof(float) != 0 || k->ne[1] == 0 || q->ne[1] == 0) return false;
    // The mask is that of all heads, or each head has its own.
    return !mask || ((mask->ne[2] == 1 || mask->ne[2] == q->ne[2]) && (mask->ne[3] == 1 || mask->ne[3] == q->ne[3]));
}

size_t ggml_attention_work_size(const ggml_tensor* op, int n_tasks) {
    const attention::Plan plan(*best_target(), problem_of(op), n_tasks);
    return cache_line + padded(op->src[0]->ne[2] * sizeof(float)) + plan.shared_bytes + n_tasks * plan.thread_bytes;
}

void ggml_attention_forward(const ggml_compute_params* params, ggml_tensor* dst) {
    const attention::Target& target = *best_target();
    attention::Problem problem = problem_of(dst);
    const attention::Plan plan(target, problem, params->nth);
    const int64_t heads = dst->src[0]->ne[2];

    GGML_ASSERT(params->wsize >= ggml_attention_work_size(dst, params->nth));

    uint8_t* work = reinterpret_cast<uint8_t*>(GGML_PAD(reinterpret_cast<uintptr_t>(params->wdata), cache_line));
    float* const slopes = reinterpret_cast<float*>(work);
    work += padded(heads * sizeof(float));
    const float max_bias = parameter(dst, 1);
    if (max_bias > 0) problem.slopes = slopes;

    if (params->ith == 0) {
        if (max_bias > 0) fill_slopes(heads, max_bias, slopes);
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    for (int64_t unit = params->ith; unit < plan.units; unit = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        attention::attend_unit(target, problem, plan, unit, params->ith, work);
    }
    if (plan.parts == 1) return;
    ggml_barrier(params->threadpool);
    for (int64_t item = params->ith; item < plan.items; item += params->nth) {
        attention::finish_item(target, problem, plan, item, work);
    }
}
