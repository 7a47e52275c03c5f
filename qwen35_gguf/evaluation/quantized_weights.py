"""Weights as a conversion would quantize them, restored, with their weighted error: to be evaluated in their place."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from qwen35_gguf.convert.rounding import Rounding
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.imatrix import Imatrix
from qwen35_gguf.quant.rounding.round_rows import TYPES, InputMoments, round_rows

Type = GGMLQuantizationType
Array = npt.NDArray[Any]

SLAB = 1 << 22  # weights dequantized in one step


@dataclass(frozen=True)
class Weight:
    """A tensor that can be quantized: where llama.cpp holds it, and the original, (matrices, rows, columns).

    Attributes:
        name: of the tensor.
        address: where it is; 0: it is not loaded.
        original: as the file has it.
        stored: its shape in the file.

    """

    name: str
    address: int
    original: Array
    stored: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(matrices, rows, columns)."""
        return self.original.shape

    def put(self, values: Array) -> None:
        """Overwrite the weights that llama.cpp computes with."""
        stored = np.ascontiguousarray(values.astype(self.original.dtype, copy=False))
        ctypes.memmove(self.address, stored.ctypes.data, stored.nbytes)


@dataclass(frozen=True)
class Quantizing:
    """How weights are quantized, as in the conversion.

    Attributes:
        imatrix: weights of the errors; None: those of the rounding, or none.
        rounding: by second moments; None: each block alone.
        threads: that quantize.

    """

    imatrix: Imatrix | None = None
    rounding: Rounding | None = None
    threads: int = 1

    def importance(self, weight: Weight) -> Array | None:
        """Return the importance of a tensor's columns, (1 or matrices, columns), None without."""
        known = self.imatrix
        if known is None and self.rounding is not None:
            known = self.rounding.moments.importance([weight.name])
        return known.importance(weight.name, weight.stored) if known else None

    def inputs(self, weight: Weight, number: int) -> list[InputMoments] | None:
        """Return the moments of what a matrix is multiplied with, by which errors are measured; None without."""
        if self.rounding is None:
            return None
        return self.rounding.inputs(weight.name, number, weight.shape[-1], Type.Q4_K)


def quantized(weight: Weight, type_: Type, how: Quantizing) -> tuple[npt.NDArray[np.float32], float]:
    """Quantize and dequantize a tensor; return it with its weighted squared error, relative to its weights."""
    restored = np.empty(weight.shape, np.float32)
    error = energy = 0.0
    known = how.importance(weight)
    for number, matrix in enumerate(weight.original):
        weights = None if known is None else known[number if len(known) > 1 else 0]
        inputs = how.inputs(weight, number)
        step = max(1, SLAB // matrix.shape[1])
        for start in range(0, len(matrix), step):
            rows = matrix[start : start + step]
            if inputs and type_ in TYPES:
                blocks = round_rows(rows, type_, inputs, weights, threads=how.threads).data
            else:
                blocks = kernels.quantize_rows(rows, type_, weights, how.threads)
            back = kernels.dequantize(blocks, type_, rows.shape[1])
            restored[number, start : start + step] = back
            wide = rows.astype(np.float32)
            error += _form(wide - back, weights, inputs)
            energy += _form(wide, weights, inputs)
    return restored, error / energy if energy else 0.0


def _form(x: Array, weights: Array | None, inputs: list[InputMoments] | None) -> float:
    """Sum x H xT over rows, (rows, columns), where H are second moments, or importance on the diagonal."""
    if not inputs:
        scale = np.ones(x.shape[1], np.float32) if weights is None else weights
        return float(np.einsum("ij,ij,j->", x, x, scale, dtype=np.float64))
    total, start = 0.0, 0
    for one in inputs:
        part = x[:, start : start + len(one.matrix)]
        total += float(np.vdot(part @ one.matrix, part))
        start += len(one.matrix)
    return total
