// GGML_OP_MUL_MAT of F32, F16 and BF16 weights for ggml's CPU backend (included from C), with the kernels in
// ggml_ops/float_matmul. ggml_block_mul_mat calls these functions for the types that are not quantized.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "ggml-cpu-impl.h"
#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

bool ggml_float_mul_mat_supported(const struct ggml_tensor* op);
size_t ggml_float_mul_mat_work_size(const struct ggml_tensor* op, int n_tasks);
void ggml_float_mul_mat_forward(const struct ggml_compute_params* params, struct ggml_tensor* dst);

// Computes the node `first` and the following nodes that multiply the same src1 with weights of the same type, with two
// barriers in total; or a matmul and what follows it in place (matmul_epilogue.h). Returns the number of nodes after
// the first; 0 if there is nothing to fuse.
int ggml_float_mul_mat_forward_fused(const struct ggml_compute_params* params, const struct ggml_cgraph* graph,
                                     int first);

#ifdef __cplusplus
}
#endif
