// From ggml tensors to the rows and columns of the kernels in ggml_ops/quantized_matmul, which do not depend on ggml.
// The rows are split into shares, which the threads take one after another.
//
// The work buffer contains the quantized columns of src1, then (MUL_MAT_ID) the list of columns of each expert, then a
// part for each thread.

#include "ggml_block_mul_mat.h"

#include <algorithm>

#include "../quantized_matmul/quantized_matmul.h"
#include "../simd/best_target.h"
#include "consecutive_matmuls.h"
#include "ggml-impl.h"
#include "ggml_float_mul_mat.h"

namespace {

// The best target that this processor supports and QWEN35_CPU allows; null on processors other than x86.
const quantized_matmul::Target* best_target() {
    static const quantized_matmul::Target* chosen = simd::best_target(quantized_matmul::targets());
    return chosen;
}

// The format of these weights, whose type has kernels: the numbers of formats are those of ggml_type.
quantized_matmul::Format format_of(const ggml_tensor* weights) {
    return static_cast<quantized_matmul::Format>(weights->type);
}

// A column of dst that an expert writes: its index among the token's experts, and the token.
struct ExpertColumn {
    int32_t slot;
    int32_t token;
};

// Sizes and offsets of the work buffer.
struct Layout {
    quantized_matmul::Format format;
    int64_t k;
    int64_t columns;        // of src1
    int64_t max_batch;      // columns of one matmul
    size_t column_bytes;    // of a quantized column
    size_t expert_columns;  // offset of the experts' lists: for each expert its start, the end of the last, the columns
    size_t threads;         // offset of the parts of the threads
    size_t thread_bytes;    // of one part

    explicit Layout(const ggml_tensor* op) {
        const ggml_tensor* src1 = op->src[1];
        format = format_of(op->src[0]);
        k = src1->ne[0];
        columns = ggml_nrows(src1);
        column_bytes = quantized_matmul::column_bytes(format, k);
        expert_columns = padded(column_bytes * columns);
        threads = expert_columns;
        max_batch = src1->ne[1];
        if (op->op == GGML_OP_MUL_MAT_ID) {
            max_batch = ggml_nelements(op->src[2]);
            threads += padded((op->src[0]->ne[2] + 1) * sizeof(int64_t) + max_batch * sizeof(ExpertColumn));
        }
        thread_bytes = padded(best_target()->scratch_bytes) + 2 * padded(max_batch * sizeof(void*));
    }

    size_t bytes(int n_tasks) const { return cache_line + threads + thread_bytes * n_tasks; }
};

// A thread's view of the work buffer.
struct Work {
    const Layout& layout;
    uint8_t* base;
    uint8_t* scratch;
    const uint8_t** columns;
    float** out;

    Work(const Layout& l, const ggml_compute_params* params) : layout(l) {
        base = reinterpret_cast<uint8_t*>(GGML_PAD(reinterpret_cast<uintptr_t>(params->wdata), cache_line));
        scratch = base + l.threads + l.thread_bytes * params->ith;
        columns = reinterpret_cast<const uint8_t**>(scratch + padded(best_target()->scratch_bytes));
        out = reinterpret_cast<float**>(reinterpret_cast<uint8_t*>(columns) + padded(l.max_batch * sizeof(void*)));
    }

    uint8_t* column(int64_t i) const { return base + layout.column_bytes * i; }

    quantized_matmul::Job job(const ggml_tensor* src0, const uint8_t* weights, int64_t batch_size) const {
        return {format_of(src0), layout.k, weights, src0->nb[1], src0->ne[1], columns, out, batch_size, scratch};
    }
};

// Quantizes all columns of src1.
void quantize_columns(const ggml_compute_params* params, const ggml_tensor* src1, const Work& work) {
    const int64_t blocks = quantized_matmul::column_blocks(work.layout.k);
    for_columns(params, src1, blocks, [&work](int64_t i, const float* x, int64_t first, int64_t last) {
        best_target()->quantize(work.layout.format, work.layout.k, x, first, last, work.column(i));
    });
}

// At the end of a matmul the threads wait for the last share: reading this much takes tens of microseconds.
constexpr int64_t max_share_bytes = 512 * 1024;
// A thread asks for memory ahead of what it multiplies: behind the end of a share in vain, and it waits at the start of
// the next one. So what is bounded by memory, a small batch (GEMV), has larger shares.
constexpr int64_t small_batch = 8;
constexpr int64_t min_share_bytes = 64 * 1024;

// Columns of a share, about: of more, the second-level cache does not hold what all rows are multiplied by; of fewer,
// decoding the rows once more takes its time.
constexpr int64_t share_columns = 512;

// How one matmul is split: a grid of rows and columns.
struct Shares {
    int64_t rows;
    int64_t columns;
    int64_t row_count;
    int64_t count;

    // all_bytes: of the weights of all matmuls that the threads compute together.
    Shares(const ggml_tensor* weights, int64_t all_bytes, int64_t batch_size, int n_threads) {
        const int64_t column_count = std::max<int64_t>(1, (batch_size + share_columns / 2) / share_columns);
        columns = (batch_size + column_count - 1) / column_count;
        const int64_t all_rows = weights->ne[1];
        const int64_t unit = best_target()->row_granularity;
        const int64_t least = batch_size <= small_batch ? min_share_bytes : 0;
        const int64_t bytes = std::clamp(all_bytes * column_count / (8 * n_threads), least, max_share_bytes);
        rows = std::max<int64_t>(1, bytes / static_cast<int64_t>(weights->nb[1]) / unit) * unit;
        row_count = (all_rows + rows - 1) / rows;
        count = row_count * column_count;
    }
};

int64_t bytes_of_rows(const ggml_tensor* weights) { return weights->ne[1] * static_cast<int64_t>(weights->nb[1]); }

// The rows of a share, and its columns.
void multiply_share(quantized_matmul::Job job, const Shares& shares, int64_t share, float** out,
                    const MatmulEpilogue& epilogue = {}) {
    const int64_t row = share % shares.row_count * shares.rows;
    const int64_t column = share / shares.row_count * shares.columns;
    job.weights += row * job.row_step;
    job.rows = std::min(shares.rows, job.rows - row);
    job.batch_size = std::min(shares.columns, job.batch_size - column);
    job.columns += column;
    job.out += column;
    out += column;
    for (int64_t c = 0; c < job.batch_size; ++c) out[c] += row;
    best_target()->multiply(job);
    for (int64_t c = 0; c < job.batch_size; ++c) {
        if (epilogue.last >= 0) epilogue.finish(out[c], column + c, row, job.rows);
        out[c] -= row;
    }
}

// Consecutive matmuls of one src1; `count` may be 1. The epilogue is that of a single one.
void multiply_all(const ggml_compute_params* params, ggml_tensor* const* nodes, int count,
                  const MatmulEpilogue& epilogue = {}) {
    const ggml_tensor* src1 = nodes[0]->src[1];
    const Layout layout(nodes[0]);
    const Work work(layout, params);

    GGML_ASSERT(params->wsize >= layout.bytes(params->nth));

    quantize_columns(params, src1, work);
    if (params->ith == 0) ggml_threadpool_chunk_set(params->threadpool, params->nth);
    ggml_barrier(params->threadpool);

    int64_t all_bytes = 0;
    for (int n = 0; n < count; ++n) all_bytes += bytes_of_rows(nodes[n]->src[0]) * nodes[n]->ne[2] * nodes[n]->ne[3];

    // Shares are numbered over all matmuls and planes.
    int64_t item = params->ith;
    int64_t done = 0;
    for (int n = 0; n < count; ++n) {
        const ggml_tensor* dst = nodes[n];
        const ggml_tensor* src0 = dst->src[0];
        const Shares shares(src0, all_bytes, src1->ne[1], params->nth);
        for (int64_t plane = 0; plane < dst->ne[2] * dst->ne[3]; ++plane, done += shares.count) {
            if (item >= done + shares.count) continue;
            const int64_t i2 = plane % dst->ne[2];
            const int64_t i3 = plane / dst->ne[2];
            char* const out = static_cast<char*>(dst->data) + i2 * dst->nb[2] + i3 * dst->nb[3];
            for (int64_t c = 0; c < src1->ne[1]; ++c) {
                work.columns[c] = work.column(plane * src1->ne[1] + c);
                work.out[c] = reinterpret_cast<float*>(out + c * dst->nb[1]);
            }
            const uint8_t* weights = static_cast<const uint8_t*>(src0->data) +
                                     i2 / (dst->ne[2] / src0->ne[2]) * src0->nb[2] +
                                     i3 / (dst->ne[3] / src0->ne[3]) * src0->nb[3];
            while (item < done + shares.count) {
                multiply_share(work.job(src0, weights, src1->ne[1]), shares, item - done, work.out, epilogue);
                item = ggml_threadpool_chunk_add(params->threadpool, 1);
            }
        }
    }
}

// Writes the columns of each expert, in the order of the tokens, and where each expert's columns start.
void list_expert_columns(const ggml_tensor* ids, int64_t experts, int64_t* starts, ExpertColumn* columns) {
    const auto expert = [ids](int64_t slot, int64_t token) {
        const char* at = static_cast<const char*>(ids->data) + token * ids->nb[1] + slot * ids->nb[0];
        return *reinterpret_cast<const int32_t*>(at);
    };
    std::fill(starts, starts + experts + 1, 0);
    for (int64_t token = 0; token < ids->ne[1]; ++token) {
        for (int64_t slot = 0; slot < ids->ne[0]; ++slot) {
            GGML_ASSERT(expert(slot, token) >= 0 && expert(slot, token) < experts);
            ++starts[expert(slot, token)];
        }
    }
    int64_t sum = 0;
    for (int64_t e = 0; e <= experts; ++e) {
        const int64_t count = starts[e];
        starts[e] = sum;
        sum += count;
    }
    for (int64_t token = 0; token < ids->ne[1]; ++token) {
        for (int64_t slot = 0; slot < ids->ne[0]; ++slot) {
            columns[starts[expert(slot, token)]++] = {static_cast<int32_t>(slot), static_cast<int32_t>(token)};
        }
    }
    // Each start has moved to the next one.
    for (int64_t e = experts; e > 0; --e) starts[e] = starts[e - 1];
    starts[0] = 0;
}

}  // namespace

bool ggml_block_mul_mat_takes(ggml_type type, int64_t k) {
    const quantized_matmul::FormatRow* row = quantized_matmul::find_row(type);
    return best_target() && row && k % row->block == 0;
}

static bool takes_blocks(const ggml_tensor* op) {
    const ggml_tensor* src0 = op->src[0];
    const ggml_tensor* src1 = op->src[1];
    return ggml_block_mul_mat_takes(src0->type, src0->ne[0]) && src1->type == GGML_TYPE_F32 &&
           src1->nb[0] == sizeof(float) && src0->nb[0] == ggml_type_size(src0->type) && op->nb[0] == sizeof(float) &&
           ggml_get_op_params_i32(op, 1) != GGML_HINT_SRC0_IS_HADAMARD;
}

bool ggml_block_mul_mat_supported(const ggml_tensor* op) {
    return ggml_float_mul_mat_supported(op) || takes_blocks(op);
}

size_t ggml_block_mul_mat_work_size(const ggml_tensor* op, int n_tasks) {
    return ggml_float_mul_mat_supported(op) ? ggml_float_mul_mat_work_size(op, n_tasks) : Layout(op).bytes(n_tasks);
}

void ggml_block_mul_mat_forward(const ggml_compute_params* params, ggml_tensor* dst) {
    if (ggml_float_mul_mat_supported(dst)) return ggml_float_mul_mat_forward(params, dst);
    multiply_all(params, &dst, 1);
}

int ggml_block_mul_mat_forward_fused(const ggml_compute_params* params, const ggml_cgraph* graph, int first) {
    if (ggml_float_mul_mat_supported(graph->nodes[first])) {
        return ggml_float_mul_mat_forward_fused(params, graph, first);
    }
    const auto same_activations = [](const ggml_tensor* a, const ggml_tensor* b) {
        return quantized_matmul::same_activations(format_of(a->src[0]), format_of(b->src[0]));
    };
    return multiply_consecutive(graph, first, takes_blocks, same_activations,
                                [params](ggml_tensor* const* nodes, int count, const MatmulEpilogue& epilogue) {
                                    multiply_all(params, nodes, count, epilogue);
                                });
}

void ggml_block_mul_mat_id_forward(const ggml_compute_params* params, ggml_tensor* dst) {
    const ggml_tensor* src0 = dst->src[0];
    const ggml_tensor* src1 = dst->src[1];
    const ggml_tensor* ids = dst->src[2];
    const int64_t experts = src0->ne[2];
    const Layout layout(dst);
    const Work work(layout, params);

    GGML_ASSERT(params->wsize >= layout.bytes(params->nth));

    int64_t* starts = reinterpret_cast<int64_t*>(work.base + layout.expert_columns);
    ExpertColumn* expert_columns = reinterpret_cast<ExpertColumn*>(starts + experts + 1);

    quantize_columns(params, src1, work);
    if (params->ith == 0) {
        list_expert_columns(ids, experts, starts, expert_columns);
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    int64_t chosen = 0;
    for (int64_t e = 0; e < experts; ++e) chosen += starts[e + 1] > starts[e] ? 1 : 0;

    // Shares are numbered over all experts.
    int64_t item = params->ith;
    int64_t done = 0;
    for (int64_t e = 0; e < experts; ++e) {
        const int64_t batch_size = starts[e + 1] - starts[e];
        if (batch_size == 0) continue;
        const Shares shares(src0, chosen * bytes_of_rows(src0), batch_size, params->nth);
        bool listed = false;
        while (item < done + shares.count) {
            for (int64_t c = 0; c < batch_size && !listed; ++c) {
                const ExpertColumn& to = expert_columns[starts[e] + c];
                work.columns[c] = work.column(to.slot % src1->ne[1] + to.token * src1->ne[1]);
                char* const out = static_cast<char*>(dst->data) + to.slot * dst->nb[1] + to.token * dst->nb[2];
                work.out[c] = reinterpret_cast<float*>(out);
            }
            listed = true;
            const uint8_t* weights = static_cast<const uint8_t*>(src0->data) + e * src0->nb[2];
            multiply_share(work.job(src0, weights, batch_size), shares, item - done, work.out);
            item = ggml_threadpool_chunk_add(params->threadpool, 1);
        }
        done += shares.count;
    }
}
