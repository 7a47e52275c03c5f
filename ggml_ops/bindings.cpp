#include <nanobind/nanobind.h>

#include "simd/spin_wait.h"

void bind_attention(nanobind::module_& m);
void bind_delta_net(nanobind::module_& m);
void bind_kquants(nanobind::module_& m);
void bind_moment_rounding(nanobind::module_& m);
void bind_quantized_matmul(nanobind::module_& m);
void bind_float_matmul(nanobind::module_& m);

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of qwen35_gguf.ggml_ops.";
    bind_attention(m);
    bind_delta_net(m);
    bind_kquants(m);
    bind_moment_rounding(m);
    bind_quantized_matmul(m);
    bind_float_matmul(m);
    m.def("pause_nanoseconds", &simd::pause_nanoseconds, "Times one step of a spinning wait.");
}
