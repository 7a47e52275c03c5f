"""Readable NumPy twins of every native op, which the tests compare the kernels with.

The quantizers give the bytes of the kernels; the other twins compute in float64.
"""

from qwen35_gguf.ggml_ops.reference.attention import attention
from qwen35_gguf.ggml_ops.reference.delta_net import causal_conv1d_silu, gated_delta_rule
from qwen35_gguf.ggml_ops.reference.matmul import (
    BLOCKS_OF_32,
    dequantize_activations,
    finish_mul_mat,
    float_mul_mat,
    mul_mat,
    quantize_activations,
    round_activations,
)
from qwen35_gguf.ggml_ops.reference.quantize import FORMATS, quantize

__all__ = [
    "BLOCKS_OF_32",
    "FORMATS",
    "attention",
    "causal_conv1d_silu",
    "dequantize_activations",
    "finish_mul_mat",
    "float_mul_mat",
    "gated_delta_rule",
    "mul_mat",
    "quantize",
    "quantize_activations",
    "round_activations",
]
