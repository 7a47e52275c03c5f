// GGML_OP_MUL_MAT and GGML_OP_MUL_MAT_ID of weights in the layout of the file, for ggml's CPU backend
// (included from C), with the kernels in ggml_ops/quantized_matmul. A weight is decoded once for all columns of a
// batch.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ggml-cpu-impl.h"
#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// Whether weights of this type are used in the layout of the file: they need no repacked copy.
bool ggml_block_mul_mat_takes(enum ggml_type type, int64_t k);

bool ggml_block_mul_mat_supported(const struct ggml_tensor* op);
size_t ggml_block_mul_mat_work_size(const struct ggml_tensor* op, int n_tasks);
void ggml_block_mul_mat_forward(const struct ggml_compute_params* params, struct ggml_tensor* dst);
void ggml_block_mul_mat_id_forward(const struct ggml_compute_params* params, struct ggml_tensor* dst);

// Computes the node `first` and the following nodes that multiply the same src1, with two barriers in total. Returns
// the number of nodes after the first; 0 if there is nothing to fuse.
int ggml_block_mul_mat_forward_fused(const struct ggml_compute_params* params, const struct ggml_cgraph* graph,
                                     int first);

#ifdef __cplusplus
}
#endif
