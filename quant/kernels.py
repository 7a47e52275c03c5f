"""Quantize and dequantize rows of weights: our kernels where one exists for the type, ggml's for the rest.

Ours (ggml_ops/kquants) read float32, bfloat16 and float16 as they are, and give the bytes of ggml_quantize_chunk. The
others are those of the libggml-base of the installed llama.cpp, loaded when first needed. Both release the GIL.

Source: ggml/include/ggml.h (ggml_quantize_chunk, ggml_validate_row_data, ggml_get_type_traits).
"""

from __future__ import annotations

import ctypes
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf.errors import MissingDependencyError, QuantizationError
from qwen35_gguf.ggml_ops import _native, target
from qwen35_gguf.llama_package import installed_runtime
from qwen35_gguf.quant.presets import FORMATS

Array = np.ndarray[Any, np.dtype[Any]]
Type = GGMLQuantizationType

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PLAIN = {Type.F32: np.dtype(np.float32), Type.F16: np.dtype(np.float16), Type.BF16: BFLOAT16}
CHUNK_ELEMENTS = 1 << 18

NATIVE = frozenset(type_ for type_ in Type if type_.name in _native.quantize_formats())
# What the native code reads without a copy, and under which name.
SOURCES = {np.dtype(np.float32): "f32", BFLOAT16: "bf16", np.dtype(np.float16): "f16"}


def row_bytes(type: GGMLQuantizationType, columns: int) -> int:  # noqa: A002 (ggml's word)
    """Return the bytes of one quantized row. Raises QuantizationError if the row is not whole blocks."""
    block, size = GGML_QUANT_SIZES[type]
    if columns % block:
        raise QuantizationError(f"rows of {columns} are not whole blocks of {block} as {type.name} needs")
    return columns // block * size


def quantize_rows(
    x: Array,
    type: GGMLQuantizationType,  # noqa: A002
    importance: Array | None = None,
    threads: int = 1,
) -> Array:
    """Quantize rows.

    Args:
        x: (rows, columns), float32, float16, bfloat16 or float8, any strides.
        type: the target type.
        importance: (columns,) float32, not negative, or None.
        threads: how many share the rows; only the native types use more than one here.

    Returns:
        (rows, row_bytes) uint8.

    Raises:
        QuantizationError: non-finite weights, values that the type cannot hold, or a missing or bad importance.

    """
    rows, columns = x.shape
    width = row_bytes(type, columns)
    source = np.ascontiguousarray(x, dtype=None if x.dtype in SOURCES else np.float32)
    if type in PLAIN:
        return _narrow(source, PLAIN[type]).view(np.uint8).reshape(rows, width)
    weights = _check_importance(importance, columns, type)
    packed = np.empty((rows, width), np.uint8)
    if type in NATIVE:
        fits = _quantize_native(source, type, weights, packed, threads)
    else:
        fits = _quantize_ggml(source, type, weights, packed)
    if not fits:
        worst = float(np.abs(source.astype(np.float32)).max())
        raise QuantizationError(f"weights up to {worst:.4g} overflow the scales of {type.name}")
    return packed


def quantize(
    x: Array,
    type: str | GGMLQuantizationType,  # noqa: A002
    importance: Array | None = None,
    threads: int = 0,
) -> Array:
    """Quantize an array to a GGUF type, bit for bit as ggml does.

    Args:
        x: (..., columns), float32, float16, bfloat16 or float8.
        type: "Q4_K", or the enum of the gguf package.
        importance: (columns,) float32, not negative, of an importance matrix: the weight of an error in each column.
        threads: 0 for one per core.

    Returns:
        (rows, row_bytes) uint8, with all leading dimensions as rows.

    Raises:
        QuantizationError: an unknown type, or what quantize_rows refuses.

    """
    if isinstance(type, str) and type.upper() not in Type.__members__:
        raise QuantizationError(f"{type}: not a ggml type; choose one of {', '.join(sorted(t.name for t in Type))}")
    kind = GGMLQuantizationType[type.upper()] if isinstance(type, str) else type
    if x.ndim == 0:
        raise QuantizationError("a single number cannot be quantized; give an array (..., columns)")
    rows = x.reshape(-1, x.shape[-1])
    threads = threads or os.cpu_count() or 1
    if kind in NATIVE or threads == 1:
        return quantize_rows(rows, kind, importance, threads)
    step = max(1, CHUNK_ELEMENTS // max(1, rows.shape[1]))
    chunks = [rows[start : start + step] for start in range(0, rows.shape[0], step)] or [rows]
    with ThreadPoolExecutor(min(threads, len(chunks))) as pool:
        return np.concatenate(list(pool.map(lambda chunk: quantize_rows(chunk, kind, importance), chunks)))


def dequantize(data: Array, type: GGMLQuantizationType, columns: int) -> Array:  # noqa: A002
    """Dequantize (rows, row_bytes) uint8 to (rows, columns) float32.

    Raises:
        QuantizationError: the rows are not whole blocks, or ggml cannot dequantize the type.

    """
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


def _quantize_native(x: Array, type: Type, importance: Array | None, packed: Array, threads: int) -> bool:  # noqa: A002
    bits, source = _bits(x)
    count, first, fits = _native.quantize(bits, source, type.name, importance, packed, threads, target())
    _refuse_non_finite(count, first, x.shape[1])
    return fits


def _quantize_ggml(x: Array, type: Type, importance: Array | None, packed: Array) -> bool:  # noqa: A002
    _check_finite(x)
    wide = np.ascontiguousarray(x, dtype=np.float32)
    weights = importance.ctypes.data if importance is not None else None
    ggml = _ggml()
    ggml.ggml_quantize_chunk(int(type), wide.ctypes.data, packed.ctypes.data, 0, *wide.shape, weights)
    return bool(ggml.ggml_validate_row_data(int(type), packed.ctypes.data, packed.nbytes))


def _narrow(x: Array, dtype: np.dtype[Any]) -> Array:
    _check_finite(x)
    if x.dtype == dtype:
        return x
    with np.errstate(over="ignore"):
        narrow: Array = x.astype(dtype)
    if dtype.itemsize < x.dtype.itemsize or dtype == np.float16:
        bits, source = _bits(narrow)
        if _native.find_non_finite(bits, source)[0]:
            worst = float(np.abs(x.astype(np.float32)).max())
            name = next(type_.name for type_, plain in PLAIN.items() if plain == dtype)
            raise QuantizationError(f"{worst:.4g} is beyond what {name} can hold; choose BF16 or F32")
    return narrow


def _check_importance(importance: Array | None, columns: int, type: Type) -> Array | None:  # noqa: A002
    if importance is None:
        if type in FORMATS and FORMATS[type].imatrix == "required":
            raise QuantizationError(f"{type.name} needs an importance matrix")
        return None
    weights = np.ascontiguousarray(importance, dtype=np.float32)
    if weights.shape != (columns,):
        raise QuantizationError(f"importance has shape {weights.shape}, the rows have {columns} columns")
    good = np.isfinite(weights) & (weights >= 0)
    if not good.all():
        column = int(np.argmin(good))
        raise QuantizationError(
            f"importance of column {column} is {weights[column]}; it must be finite and not negative"
        )
    return weights


def _check_finite(x: Array) -> None:
    bits, source = _bits(x)
    count, first = _native.find_non_finite(bits, source)
    _refuse_non_finite(count, first, x.shape[1])


def _refuse_non_finite(count: int, first: int, columns: int) -> None:
    if count:
        row, column = divmod(first, columns)
        raise QuantizationError(f"{count} non-finite weights (NaN or Inf), first at row {row}, column {column}")


def _bits(x: Array) -> tuple[Array, str]:
    """View the elements as unsigned integers, because DLPack does not know all of these dtypes from numpy."""
    return x.view(f"u{x.dtype.itemsize}"), SOURCES[x.dtype]


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
    """Load libggml-base without importing the bindings, which would load the whole runtime.

    Raises MissingDependencyError when llama.cpp is absent.
    """
    runtime = installed_runtime()
    path = runtime.library("ggml-base") if runtime else None
    if path is not None and path.is_file():
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
    raise MissingDependencyError("llama.cpp is needed to quantize to this type; `qwen35 setup` installs it")
