"""What a quantized tensor is made of, and how rows of it become F32.

A format's reader looks at a `Module` (the tensors of one layer, their shapes and settings) and answers with a `Layout`:
the shape of the weights, and a function that computes rows of them. Both see one matrix: the experts of a stack are
read one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen35_gguf.convert.dequantize.settings import Settings
from qwen35_gguf.convert.source_tensors.safetensors_header import StoredTensor
from qwen35_gguf.errors import CheckpointError

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
View = Callable[[StoredTensor], Array]
Arrays = Mapping[str, Array]

PIECE = 1 << 20  # weights that are dequantized at a time: 4 MiB as F32


class ScaleError(Exception):
    """The numbers of a companion cannot be used; the argument is its role."""


@dataclass(frozen=True)
class Layout:
    """How one matrix is stored.

    Attributes:
        shape: rows and columns of the weights.
        compute: (arrays by role, first row, row after the last) -> (rows, columns) F32.
        step: a multiple at which rows may begin.

    """

    shape: tuple[int, int]
    compute: Callable[[Arrays, int, int], Array]
    step: int = 1


@dataclass(frozen=True)
class Module:
    """A linear layer or an embedding that is stored quantized.

    Attributes:
        name: canonical, without the role of a tensor.
        tensors: as they are stored, by role: `weight`, `weight_scale`, `qzeros` and so on.
        settings: what config.json tells about it.
        view: returns the numbers of a tensor.
        experts: in a stack; 0 for a single matrix.

    """

    name: str
    tensors: Mapping[str, StoredTensor]
    settings: Settings
    view: View
    experts: int = 0

    def shape(self, role: str) -> Shape:
        """Return the shape of a tensor, of one matrix."""
        shape = self.tensors[role].shape
        return shape[1:] if self.experts and shape[:1] == (self.experts,) else shape

    def dtype(self, role: str) -> str:
        """Return the dtype of a tensor, as safetensors names it; "" for one that is absent."""
        return self.tensors[role].dtype if role in self.tensors else ""

    def array(self, role: str) -> Array:
        """Return all numbers of a small tensor."""
        return self.view(self.tensors[role])

    def matrix(self, number: int) -> Arrays:
        """Return views of the tensors of one matrix."""
        found = {role: self.view(stored) for role, stored in self.tensors.items()}
        if not self.experts:
            return found
        return {role: array[number] if array.shape[:1] == (self.experts,) else array for role, array in found.items()}

    def check(self, role: str, *allowed: Shape) -> None:
        """Raise CheckpointError if a tensor has none of the allowed shapes."""
        if self.shape(role) not in allowed:
            wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(allowed))
            raise self.misfit(role, f"must be {wanted}{' for each expert' if self.experts else ''}")

    def misfit(self, role: str, must: str) -> CheckpointError:
        """Return the error for a companion whose shape does not fit the weights."""
        stored, weights = self.tensors[role], next(iter(self.tensors.values()))
        described = f"{stored.name} has shape {list(stored.shape)}"
        beside = "" if stored is weights else f" beside {weights.name} {list(weights.shape)} {weights.dtype}"
        return CheckpointError(f"{stored.file}: {described}{beside}; {must}; download it again or quantize it anew")

    def contradiction(self, key: str, given: object, found: object) -> CheckpointError:
        """Return the error for a setting of config.json that the stored tensors contradict."""
        weights = next(iter(self.tensors.values()))
        return CheckpointError(
            f"{weights.file}: {weights.name} {list(weights.shape)} and its companions are of {key} {found}, but "
            f"{self.settings.where} gives {given}; use the config.json of these weights"
        )


@dataclass(frozen=True)
class QuantizedTensor:
    """Weights that are dequantized when they are read."""

    format: str
    module: Module
    layout: Layout

    @property
    def shape(self) -> Shape:
        """The shape of the weights, as they are published."""
        return (self.module.experts, *self.layout.shape) if self.module.experts else self.layout.shape

    @property
    def stored(self) -> tuple[StoredTensor, ...]:
        """All tensors that the weights are computed from."""
        return tuple(self.module.tensors.values())

    def pieces(self, part: int = 0, parts: int = 1) -> Iterator[tuple[int, Array]]:
        """Yield (matrix, rows) in order, each of about `PIECE` weights: (rows, columns) F32.

        Args:
            part: which of equal parts of the rows of each matrix.
            parts: how many there are.

        Raises:
            CheckpointError: scales are not finite.

        """
        rows, columns = self.layout.shape
        first, last = rows * part // parts, rows * (part + 1) // parts
        step = self.layout.step * max(1, PIECE // max(1, columns) // self.layout.step)
        for number in range(max(1, self.module.experts)):
            arrays = self.module.matrix(number)
            for start in range(first, last, step):
                yield number, self._rows(arrays, start, min(last, start + step))

    def rows(self, start: int, stop: int) -> Array:
        """Return rows of a single matrix: (rows, columns) F32."""
        return self._rows(self.module.matrix(0), start, stop)

    def read(self) -> Array:
        """Return all weights as F32."""
        result = np.empty((math.prod(self.shape[:-1]), self.shape[-1]), np.float32)
        start = 0
        for _, rows in self.pieces():
            result[start : start + len(rows)] = rows
            start += len(rows)
        return result.reshape(self.shape)

    def _rows(self, arrays: Arrays, start: int, stop: int) -> Array:
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused when it is quantized
                step, rows = self.layout.step, self.layout.shape[0]
                begin = start - start % step
                found = self.layout.compute(arrays, begin, min(rows, stop + -stop % step))[start - begin : stop - begin]
            if PRE_QUANT_SCALE in arrays:
                found *= finite(arrays[PRE_QUANT_SCALE].astype(np.float32), PRE_QUANT_SCALE)[None, :]
        except ScaleError as error:
            role = str(error)
            stored, weights = self.module.tensors[role], self.stored[0]
            raise CheckpointError(
                f"{stored.file}: {stored.name} holds NaN, infinite or impossible values, so that {weights.name} "
                "cannot be dequantized; download it again or quantize it anew"
            ) from None
        return found


# The input of the layer is multiplied by it, column by column: so the columns of the weights are.
PRE_QUANT_SCALE = "pre_quant_scale"


def finite(values: Array, role: str) -> Array:
    """Return F32 values. Raises ScaleError if one is NaN or infinite."""
    widened: Array = values.astype(np.float32)
    if not np.isfinite(widened).all():
        raise ScaleError(role)
    return widened


def multiply_groups(weights: Array, scales: Array, size: int) -> Array:
    """Multiply in place, each group of `size` columns by its scale: (rows, columns) and (rows, groups)."""
    _in_groups(np.multiply, weights, scales, size)
    return weights


def subtract_groups(weights: Array, zeros: Array, size: int) -> Array:
    """Subtract in place, from each group of `size` columns its zero point."""
    _in_groups(np.subtract, weights, zeros, size)
    return weights


def add_groups(weights: Array, biases: Array, size: int) -> Array:
    """Add in place, to each group of `size` columns its bias."""
    _in_groups(np.add, weights, biases, size)
    return weights


def _in_groups(operation: np.ufunc, weights: Array, values: Array, size: int) -> None:
    rows, columns = weights.shape
    if values.shape[1] == 1:
        operation(weights, values, out=weights)
    elif columns % size == 0 and weights.flags.c_contiguous:
        grouped = weights.reshape(rows, columns // size, size)
        operation(grouped, values[:, :, None], out=grouped)
    else:
        operation(weights, np.repeat(values, size, axis=1)[:, :columns], out=weights)
