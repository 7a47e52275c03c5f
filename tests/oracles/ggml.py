"""ggml's own quantizers, from the libggml-base of llama-cpp-python."""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.quant import kernels

Array = np.ndarray[Any, Any]


def ggml_quantize(x: Array, type_: str, importance: Array | None) -> Array:
    """Quantize (rows, columns) float32 with ggml_quantize_chunk, in the calling thread."""
    rows, columns = x.shape
    x = np.ascontiguousarray(x, np.float32)
    packed = np.zeros((rows, kernels.row_bytes(Type[type_], columns)), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    kernels._ggml().ggml_quantize_chunk(int(Type[type_]), x.ctypes.data, packed.ctypes.data, 0, rows, columns, weights)
    return packed


def ggml_accepts(packed: Array, type_: str) -> bool:
    """Tell whether ggml finds all scales of quantized rows finite."""
    return bool(kernels._ggml().ggml_validate_row_data(int(Type[type_]), packed.ctypes.data, packed.nbytes))
