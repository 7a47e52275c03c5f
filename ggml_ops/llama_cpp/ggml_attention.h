// GGML_OP_FLASH_ATTN_EXT for ggml's CPU backend (included from C), with the kernels in ggml_ops/attention.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "ggml.h"

struct ggml_compute_params;

#ifdef __cplusplus
extern "C" {
#endif

bool ggml_attention_supported(const struct ggml_tensor* op);

// Bytes of work buffer for n_tasks threads.
size_t ggml_attention_work_size(const struct ggml_tensor* op, int n_tasks);

void ggml_attention_forward(const struct ggml_compute_params* params, struct ggml_tensor* dst);

#ifdef __cplusplus
}
#endif
