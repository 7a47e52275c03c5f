// GGML_OP_GATED_DELTA_NET, and the in-place form of GGML_OP_SSM_CONV, for ggml's CPU backend (included from C).
#pragma once

#include <stddef.h>

#include "ggml.h"

struct ggml_compute_params;

#ifdef __cplusplus
extern "C" {
#endif

// Bytes of work buffer that GGML_OP_GATED_DELTA_NET needs for n_tasks threads.
size_t ggml_delta_net_work_size(const struct ggml_tensor* op, int n_tasks);

void ggml_delta_net_forward(const struct ggml_compute_params* params, struct ggml_tensor* dst);

void ggml_conv_silu_in_place_forward(const struct ggml_compute_params* params, struct ggml_tensor* dst);

#ifdef __cplusplus
}
#endif
