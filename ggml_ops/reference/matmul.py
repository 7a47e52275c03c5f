"""Matmul of quantized weights: the readable twin of ggml_ops/quantized_matmul, in float64.

Source of the rounding of activations: quantize_row_q8_K_ref (ggml-quants.c), quantize_row_q8_0 and quantize_row_q8_1
(ggml-cpu).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# Their columns have one scale for 32 values, in FP16 (Q8_0); those of the other types one for 256 (Q8_K).
BLOCKS_OF_32 = frozenset({"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"})

# Blocks of these types start with a scale and a minimum, in FP16. ggml multiplies the minimum by a rounded sum (Q8_1).
BLOCKS_OF_32_WITH_MINS = {"Q4_1": 20, "Q5_1": 24}  # bytes of a block


def quantize_activations(x: Array, type: str) -> tuple[Array, Array]:  # noqa: A002 (ggml's word)
    """Round activations to signed bytes, as ggml does before it multiplies them with weights of a type.

    Args:
        x: (batch, k) float32.
        type: of the weights. With a type of BLOCKS_OF_32 there is one scale for 32 values, in FP16; with the other
            types one for 256, in float32.

    Returns:
        values: (batch, k) int8; scales: (batch, k / 32 or k / 256) float32.

    """
    of_32 = type in BLOCKS_OF_32
    blocks = x.reshape(len(x), -1, 32 if of_32 else 256)
    most = np.abs(blocks).max(axis=2)
    inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    if of_32:
        scales = (most / np.float32(127)).astype(np.float16).astype(np.float32)
    else:
        scales = np.divide(np.float32(1), inverse, out=np.zeros_like(most), where=most > 0)
    return np.rint(blocks * inverse[:, :, None]).astype(np.int8).reshape(x.shape), scales


def dequantize_activations(values: Array, scales: Array) -> Array:
    """Multiply (batch, k) signed bytes by the scales of their blocks: (batch, k) float64."""
    blocks = values.reshape(*scales.shape, -1).astype(np.float64)
    result: Array = (blocks * scales[:, :, None]).reshape(values.shape)
    return result


def mul_mat(weights: Array, type: str, x: Array) -> Array:  # noqa: A002
    """Multiply quantized weights with activations.

    Args:
        weights: (rows, row bytes) uint8, quantized to `type`.
        type: one that the kernels have.
        x: (batch, k) float32.

    Returns:
        (batch, rows) float64. The kernel gives the same to within the rounding of its float32 sums.

    """
    from gguf import GGMLQuantizationType  # here: the kernels do not need it
    from gguf.quants import dequantize

    dequantized = dequantize(weights, GGMLQuantizationType[type]).astype(np.float64)
    values, scales = quantize_activations(x, type)
    result: Array = dequantize_activations(values, scales) @ dequantized.T
    if type in BLOCKS_OF_32_WITH_MINS:
        blocks = weights.reshape(len(weights), -1, BLOCKS_OF_32_WITH_MINS[type])
        mins = np.ascontiguousarray(blocks[:, :, 2:4]).view(np.float16)[:, :, 0].astype(np.float64)
        sums = values.reshape(*scales.shape, 32).sum(axis=2, dtype=np.int64)
        result += (round_sums(x, sums) - scales.astype(np.float64) * sums) @ mins.T
    return result


def round_sums(x: Array, sums: Array) -> Array:
    """Multiply sums of 32 rounded activations by the scales as they are before these are rounded, then round to FP16.

    Args:
        x: (batch, k) float32, the activations.
        sums: (batch, k / 32) integers.

    Returns:
        (batch, k / 32) float64.

    """
    most = np.abs(x.reshape(*sums.shape, 32)).max(axis=2)
    products = most / np.float32(127) * sums.astype(np.float32)
    return np.asarray(products.astype(np.float16).astype(np.float64))


def round_activations(x: Array, type: str) -> Array:  # noqa: A002 (ggml's word)
    """Round (batch, k) float32 activations to the type of floating-point weights, as ggml does: float32."""
    if type == "F16":
        return x.astype(np.float16).astype(np.float32)
    if type == "BF16":
        bits = x.astype(np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return np.asarray(rounded.view(np.float32))
    return x.astype(np.float32)


def float_mul_mat(weights: Array, type: str, x: Array) -> Array:  # noqa: A002
    """Multiply floating-point weights with activations: the twin of ggml_ops/float_matmul.

    Args:
        weights: (rows, row bytes) uint8, of `type`.
        type: F32, F16 or BF16.
        x: (batch, k) float32, finite.

    Returns:
        (batch, rows) float64. The kernel gives the same to within the rounding of its float32 sums.

    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    values = weights.view(np.float32) if type == "F32" else dequantize(weights, GGMLQuantizationType[type])
    result: Array = round_activations(x, type).astype(np.float64) @ values.astype(np.float64).T
    return result


def finish_mul_mat(out: Array, bias: Array, summand: Array, gelu: bool) -> Array:
    """Add a bias to a matmul's result, apply GELU (the approximation by tanh) if wanted, and add a second summand.

    Args:
        out: (rows,) float32.
        bias: as long.
        summand: as long.
        gelu: whether to apply it.

    Returns:
        (rows,) float64.

    """
    x = out.astype(np.float64) + bias
    if gelu:
        x = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return np.asarray(x + summand)
