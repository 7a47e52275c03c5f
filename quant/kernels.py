"""Typed facade over the quantizers: ggml's, in the libggml-base that llama-cpp-python ships.

The library is found without importing llama_cpp, so that quantizing does not load the whole runtime. ctypes releases
the GIL during a call: threads over rows scale.

Source: ggml/include/ggml.h (ggml_quantize_chunk, ggml_validate_row_data, ggml_get_type_traits).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf.errors import MissingDependencyError, QuantizationError

Array = np.ndarray[Any, np.dtype[Any]]
Type = GGMLQuantizationType

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PLAIN = {Type.F32: np.dtype(np.float32), Type.F16: np.dtype(np.float16), Type.BF16: BFLOAT16}
CHUNK_ELEMENTS = 1 << 18

# ggml_quantize_requires_imatrix
NEEDS_IMPORTANCE = {getattr(Type, name) for name in ("IQ2_XXS", "IQ2_XS", "IQ1_S") if hasattr(Type, name)}


class _Traits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


@functools.cache
def _ggml() -> ctypes.CDLL:
    """Load libggml-base. Raises MissingDependencyError when llama-cpp-python is absent."""
    name = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(sys.platform, "libggml-base.so")
    spec = importlib.util.find_spec("llama_cpp")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for folder in ("lib", "bin", "."):
            path = Path(root, folder, name)
            if path.is_file():
                library = ctypes.CDLL(str(path))
                library.ggml_quantize_chunk.restype = ctypes.c_size_t
                library.ggml_quantize_chunk.argtypes = (
                    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
                    ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
                )  # fmt: skip
                library.ggml_validate_row_data.restype = ctypes.c_bool
                library.ggml_validate_row_data.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
                library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
                library.ggml_get_type_traits.argtypes = (ctypes.c_int,)
                return library
    raise MissingDependencyError(
        "llama-cpp-python is needed to quantize; install it: pip install 'qwen35-gguf[runtime]'"
    )


def row_bytes(type: GGMLQuantizationType, columns: int) -> int:  # noqa: A002 (ggml's word)
    """Return the bytes of one packed row. Raises QuantizationError if the row is not whole blocks."""
    block, size = GGML_QUANT_SIZES[type]
    if columns % block:
        raise QuantizationError(f"rows of {columns} are not whole blocks of {block} as {type.name} needs")
    return columns // block * size


def quantize_rows(x: Array, type: GGMLQuantizationType, importance: Array | None = None) -> Array:  # noqa: A002
    """Pack rows in the calling thread.

    Args:
        x: (rows, columns), float32, float16, bfloat16 or float8, any strides.
        type: the target type.
        importance: (columns,) float32, or None.

    Returns:
        (rows, row_bytes) uint8.

    Raises:
        QuantizationError: non-finite weights, values that the type cannot hold, or a missing importance.

    """
    rows, columns = x.shape
    width = row_bytes(type, columns)
    if type in PLAIN and x.dtype == PLAIN[type]:
        _check_finite(x)
        return np.ascontiguousarray(x).view(np.uint8).reshape(rows, width)
    wide = np.ascontiguousarray(x, dtype=np.float32)
    _check_finite(wide)
    if type in PLAIN:
        with np.errstate(over="ignore"):
            narrow = wide.astype(PLAIN[type])
        if not np.isfinite(narrow).all():
            worst = float(np.abs(wide).max())
            raise QuantizationError(f"{worst:.4g} is beyond what {type.name} can hold; choose BF16 or F32")
        return narrow.view(np.uint8).reshape(rows, width)
    if importance is not None:
        importance = np.ascontiguousarray(importance, dtype=np.float32)
        if importance.shape != (columns,):
            raise QuantizationError(f"importance has shape {importance.shape}, the rows have {columns} columns")
    elif type in NEEDS_IMPORTANCE:
        raise QuantizationError(f"{type.name} needs an importance matrix")
    packed = np.empty((rows, width), np.uint8)
    ggml = _ggml()
    weights = importance.ctypes.data if importance is not None else None
    ggml.ggml_quantize_chunk(int(type), wide.ctypes.data, packed.ctypes.data, 0, rows, columns, weights)
    if not ggml.ggml_validate_row_data(int(type), packed.ctypes.data, packed.nbytes):
        raise QuantizationError(f"weights up to {float(np.abs(wide).max()):.4g} overflow the scales of {type.name}")
    return packed


def quantize(
    x: Array,
    type: str | GGMLQuantizationType,  # noqa: A002
    importance: Array | None = None,
    threads: int = 0,
) -> Array:
    """Pack an array (..., columns) to (rows, row_bytes) uint8, with threads over chunks of rows (0: one a core)."""
    kind = GGMLQuantizationType[type.upper()] if isinstance(type, str) else type
    rows = x.reshape(-1, x.shape[-1])
    step = max(1, CHUNK_ELEMENTS // rows.shape[1])
    chunks = [rows[start : start + step] for start in range(0, rows.shape[0], step)]
    workers = min(threads or os.cpu_count() or 1, max(1, len(chunks)))
    if workers == 1:
        return quantize_rows(rows, kind, importance)
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(lambda chunk: quantize_rows(chunk, kind, importance), chunks)))


def dequantize(data: Array, type: GGMLQuantizationType, columns: int) -> Array:  # noqa: A002
    """Unpack (rows, row_bytes) uint8 to (rows, columns) float32."""
    packed = np.ascontiguousarray(data, dtype=np.uint8)
    rows = packed.size // row_bytes(type, columns)
    if type in PLAIN:
        wide: Array = packed.view(PLAIN[type]).reshape(rows, columns).astype(np.float32)
        return wide
    result = np.empty((rows, columns), np.float32)
    traits = _ggml().ggml_get_type_traits(int(type)).contents
    if not traits.to_float:
        raise QuantizationError(f"{type.name} cannot be dequantized by this libggml")
    traits.to_float(packed.ctypes.data, result.ctypes.data, rows * columns)
    return result


def _check_finite(x: Array) -> None:
    finite = np.isfinite(x)
    if not finite.all():
        bad = np.flatnonzero(~finite.reshape(-1))
        row, column = divmod(int(bad[0]), x.shape[1])
        raise QuantizationError(f"{len(bad)} non-finite weights (NaN or Inf), first at row {row}, column {column}")
