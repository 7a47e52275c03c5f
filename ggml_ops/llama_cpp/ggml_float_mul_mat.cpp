// From ggml tensors to the rows and columns of the kernels in ggml_ops/float_matmul, which do not depend on ggml. Rows
// and, in a large batch, columns are split into shares, which the threads take one after another.
//
// The work buffer contains the converted columns of src1, then a part for each thread.

#include "ggml_float_mul_mat.h"

#include <algorithm>
#include <cstring>

#include "../float_matmul/float_matmul.h"
#include "../simd/best_target.h"
#include "consecutive_matmuls.h"
#include "ggml-impl.h"

namespace {

constexpr int64_t share_columns = 768;  // of a large batch, about: enough for a panel to pay off

// The best target that this processor supports and QWEN35_CPU allows; null where ggml's own kernels are better.
const float_matmul::Target* best_target() {
    static const float_matmul::Target* chosen = [] {
        const float_matmul::Target* best = simd::best_target(float_matmul::targets());
        return best && std::strcmp(best->name, "portable") != 0 ? best : nullptr;
    }();
    return chosen;
}

bool find_format(ggml_type type, float_matmul::Format& format) {
    using float_matmul::Format;
    switch (type) {
        case GGML_TYPE_F32: format = Format::f32; return true;
        case GGML_TYPE_F16: format = Format::f16; return true;
        case GGML_TYPE_BF16: format = Format::bf16; return true;
        default: return false;
    }
}

// On ARM ggml multiplies F16 by FP16 arithmetic and F32 by blocks, but BF16 value by value.
bool takes(ggml_type type) {
    float_matmul::Format format;
    return best_target() && find_format(type, format) &&
           (type == GGML_TYPE_BF16 || std::strcmp(best_target()->name, "neon") != 0);
}

// Sizes and offsets of the work buffer.
struct Layout {
    float_matmul::Format format = float_matmul::Format::f32;
    int64_t k;
    int64_t columns;  // of src1
    size_t column_bytes;
    size_t threads;       // offset of the parts of the threads
    size_t thread_bytes;  // of one part

    explicit Layout(const ggml_tensor* op) {
        const ggml_tensor* src1 = op->src[1];
        find_format(op->src[0]->type, format);
        k = src1->ne[0];
        columns = ggml_nrows(src1);
        column_bytes = best_target()->column_bytes(format, k);
        threads = padded(column_bytes * columns);
        thread_bytes = padded(best_target()->scratch_bytes) + padded(src1->ne[1] * sizeof(float*));
    }

    size_t bytes(int n_tasks) const { return cache_line + threads + thread_bytes * n_tasks; }
};

// Rounds all columns of src1.
void convert_columns(const ggml_compute_params* params, const ggml_tensor* src1, const Layout& layout, uint8_t* base) {
    const int64_t pieces = (layout.k + float_matmul::convert_values - 1) / float_matmul::convert_values;
    for_columns(params, src1, pieces, [&](int64_t i, const float* x, int64_t first, int64_t last) {
        best_target()->convert(layout.format, layout.k, x, first, last, base + layout.column_bytes * i);
    });
}

// How one matmul is split: a grid of rows and columns.
struct Shares {
    int64_t rows;
    int64_t columns;
    int64_t row_count;
    int64_t count;

    Shares(int64_t all_rows, int64_t batch_size, int n_threads) {
        const int64_t unit = best_target()->row_granularity;
        const int64_t step = best_target()->column_granularity;
        const int64_t column_count = std::max<int64_t>(1, batch_size / share_columns);
        columns = std::max<int64_t>(1, ((batch_size + column_count - 1) / column_count + step - 1) / step * step);
        rows = std::max<int64_t>(1, all_rows * column_count / (8 * n_threads) / unit) * unit;
        row_count = (all_rows + rows - 1) / rows;
        count = row_count * ((batch_size + columns - 1) / columns);
    }
};

// Consecutive matmuls of one src1; `count` may be 1. The epilogue is that of a single one.
void multiply_all(const ggml_compute_params* params, ggml_tensor* const* nodes, int count,
                  const MatmulEpilogue& epilogue = {}) {
    const ggml_tensor* src1 = nodes[0]->src[1];
    const Layout layout(nodes[0]);

    GGML_ASSERT(params->wsize >= layout.bytes(params->nth));

    auto* const base = reinterpret_cast<uint8_t*>(GGML_PAD(reinterpret_cast<uintptr_t>(params->wdata), cache_line));
    uint8_t* const scratch = base + layout.threads + layout.thread_bytes * params->ith;
    float** const out = reinterpret_cast<float**>(scratch + padded(best_target()->scratch_bytes));

    convert_columns(params, src1, layout, base);
    if (params->ith == 0) ggml_threadpool_chunk_set(params->threadpool, params->nth);
    ggml_barrier(params->threadpool);

    // Shares are numbered over all matmuls and planes.
    int64_t item = params->ith;
    int64_t done = 0;
    for (int n = 0; n < count; ++n) {
        const ggml_tensor* dst = nodes[n];
        const ggml_tensor* src0 = dst->src[0];
        const Shares shares(src0->ne[1], src1->ne[1], params->nth);
        for (int64_t plane = 0; plane < dst->ne[2] * dst->ne[3]; ++plane, done += shares.count) {
            const int64_t i2 = plane % dst->ne[2];
            const int64_t i3 = plane / dst->ne[2];
            char* const result = static_cast<char*>(dst->data) + i2 * dst->nb[2] + i3 * dst->nb[3];
            const uint8_t* weights = static_cast<const uint8_t*>(src0->data) +
                                     i2 / (dst->ne[2] / src0->ne[2]) * src0->nb[2] +
                                     i3 / (dst->ne[3] / src0->ne[3]) * src0->nb[3];
            while (item < done + shares.count) {
                const int64_t row = (item - done) % shares.row_count * shares.rows;
                const int64_t column = (item - done) / shares.row_count * shares.columns;
                const int64_t columns = std::min(shares.columns, src1->ne[1] - column);
                for (int64_t c = 0; c < columns; ++c) {
                    out[c] = reinterpret_cast<float*>(result + (column + c) * dst->nb[1]) + row;
                }
                const int64_t rows = std::min(shares.rows, src0->ne[1] - row);
                best_target()->multiply({layout.format, layout.k, weights + row * src0->nb[1], src0->nb[1], rows,
                                         base + layout.column_bytes * (plane * src1->ne[1] + column), out, columns,
                                         scratch});
                if (epilogue.last >= 0) {
                    for (int64_t c = 0; c < columns; ++c) epilogue.finish(out[c], column + c, row, rows);
                }
                item = ggml_threadpool_chunk_add(params->threadpool, 1);
            }
        }
    }
}

}  // namespace

bool ggml_float_mul_mat_supported(const ggml_tensor* op) {
    const ggml_tensor* src0 = op->src[0];
    const ggml_tensor* src1 = op->src[1];
    return op->op == GGML_OP_MUL_MAT && takes(src0->type) && src1->type == GGML_TYPE_F32 &&
           src1->nb[0] == sizeof(float) && src0->nb[0] == ggml_type_size(src0->type) && op->nb[0] == sizeof(float) &&
           ggml_get_op_params_i32(op, 1) != GGML_HINT_SRC0_IS_HADAMARD;
}

size_t ggml_float_mul_mat_work_size(const ggml_tensor* op, int n_tasks) { return Layout(op).bytes(n_tasks); }

void ggml_float_mul_mat_forward(const ggml_compute_params* params, ggml_tensor* dst) { multiply_all(params, &dst, 1); }

int ggml_float_mul_mat_forward_fused(const ggml_compute_params* params, const ggml_cgraph* graph, int first) {
    const auto same_type = [](const ggml_tensor* a, const ggml_tensor* b) {
        return a->src[0]->type == b->src[0]->type;
    };
    return multiply_consecutive(graph, first, ggml_float_mul_mat_supported, same_type,
                                [params](ggml_tensor* const* nodes, int count, const MatmulEpilogue& epilogue) {
                                    multiply_all(params, nodes, count, epilogue);
                                });
}
