"""Native kernels in C++17, bound with nanobind, and their readable NumPy twins (`reference`)."""

from qwen35_gguf.ggml_ops import reference
from qwen35_gguf.ggml_ops.attention_op import attention
from qwen35_gguf.ggml_ops.causal_conv1d import causal_conv1d_silu
from qwen35_gguf.ggml_ops.gated_delta_rule import gated_delta_rule
from qwen35_gguf.ggml_ops.target import attention_target, matmul_target, product_target, target, targets

__all__ = [
    "attention",
    "attention_target",
    "causal_conv1d_silu",
    "gated_delta_rule",
    "matmul_target",
    "product_target",
    "reference",
    "target",
    "targets",
]
