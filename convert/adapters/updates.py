"""What an adapter does to one tensor of the base, and the merge of it, a chunk of rows at a time.

Computed in float32 and rounded to the base's type, as PEFT's `merge` of float32 factors does.
Source: peft, `tuners/lora/layer.py` (`get_delta_weight`), `tuners/lora/variants.py` (DoRA: `merge_unsafe`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen35_gguf.errors import AdapterError

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK_ELEMENTS = 1 << 20  # 4 MiB of float32


@dataclass(frozen=True)
class LowRank:
    """`scale * b @ a` is added to a matrix, or to some or all of a stack of matrices.

    Attributes:
        key: of A in the adapter.
        a: (rank, columns), or (experts, rank, columns) for all of a stack.
        b: (rows, rank), or (experts, rows, rank).
        scale: the factor.
        magnitude: DoRA's norms, of the rows or of the columns; None without DoRA.
        of_columns: the norms are those of the columns, as for an embedding.
        rounded: what is added is rounded to the base's type first, as PEFT does for embeddings and for
            parameters of experts.
        expert: the one matrix of a stack that is changed.
        first_row: of the matrix that is changed, as for half of gate_up_proj.

    """

    key: str
    a: Array
    b: Array
    scale: float
    magnitude: Array | None = None
    of_columns: bool = False
    rounded: bool = False
    expert: int | None = None
    first_row: int = 0

    @property
    def rank(self) -> int:
        """The rank of one matrix."""
        return int(self.a.shape[-2])

    @property
    def of_stack(self) -> bool:
        """Whether the tensor is a stack of matrices."""
        return self.a.ndim == 3 or self.expert is not None

    def factors(self, matrix: int) -> tuple[Array, Array] | None:
        """Return A (rank, columns) and B (rows, rank) of one matrix in float32; None if it is not changed."""
        if self.a.ndim == 3:
            return self.a[matrix].astype(np.float32), self.b[matrix].astype(np.float32)
        if self.expert not in (None, matrix):
            return None
        return self.a.astype(np.float32), self.b.astype(np.float32)


@dataclass(frozen=True)
class Whole:
    """The tensor is replaced (`modules_to_save`, trained biases)."""

    key: str
    values: Array


@dataclass(frozen=True)
class Rows:
    """Some rows are replaced (`trainable_token_indices`)."""

    key: str
    values: Array
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Shift:
    """A vector is added to a bias (`lora_bias`)."""

    key: str
    values: Array
    scale: float


Partial = LowRank | Rows | Shift
Update = Partial | Whole


def merge(base: Array, updates: Sequence[Update]) -> Array:
    """Return the base's tensor with all updates, in the base's type and shape.

    The updates are made in order, and each is rounded, as in PEFT. DoRA's norms are those of the base and its own
    update, whatever else was merged.

    Raises:
        AdapterError: an update makes numbers of finite ones that are not.

    """
    partial: list[Partial] = []
    for update in updates:
        if isinstance(update, Whole):  # without a copy where the types agree
            base, partial = update.values.reshape(base.shape).astype(base.dtype, copy=False), []
        else:
            partial.append(update)
    if not partial:
        return base
    stacked = any(isinstance(update, LowRank) and update.of_stack for update in partial)
    matrices = base if stacked else base.reshape(1, base.shape[0], -1)
    result = np.empty(matrices.shape, base.dtype)
    for number, matrix in enumerate(matrices):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            parts = [part for update in partial if (part := _Part.of(update, number, matrix)) is not None]
            for start, stop in _chunks(matrix):
                rows = old = matrix[start:stop].astype(np.float32)
                for part in parts:
                    rows = part.apply(rows, old, start, stop).astype(base.dtype).astype(np.float32)
                if not np.isfinite(rows).all() and np.isfinite(old).all():
                    raise AdapterError(
                        f"{parts[0].update.key}: makes weights that are not finite; the training diverged, or its "
                        "alpha is too large"
                    )
                result[number, start:stop] = rows.astype(base.dtype)
    merged: Array = result.reshape(base.shape)
    return merged


def _chunks(matrix: Array) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK_ELEMENTS // max(1, matrix.shape[1]))
    for start in range(0, matrix.shape[0], step):
        yield start, min(start + step, matrix.shape[0])


@dataclass(frozen=True)
class _Part:
    """An update of one matrix, with its factors in float32."""

    update: Partial
    type: np.dtype[Any]
    a: Array
    b: Array
    column_factor: Array | None = None

    @classmethod
    def of(cls, update: Partial, number: int, matrix: Array) -> _Part | None:
        none = np.empty((0, 0), np.float32)
        if not isinstance(update, LowRank):
            return cls(update, matrix.dtype, none, none)
        factors = update.factors(number)
        if factors is None:
            return None
        a, b = factors[0], np.float32(update.scale) * factors[1]
        if update.magnitude is None or not update.of_columns:
            return cls(update, matrix.dtype, a, b)
        squares = np.zeros(matrix.shape[1], np.float64)
        for start, stop in _chunks(matrix):
            squares += np.square(matrix[start:stop].astype(np.float32) + b[start:stop] @ a).sum(axis=0)
        return cls(
            update, matrix.dtype, a, b, update.magnitude.astype(np.float32) / np.sqrt(squares).astype(np.float32)
        )

    def apply(self, rows: Array, old: Array, start: int, stop: int) -> Array:
        """Return rows `start` to `stop` with the update; `old` are those of the base before any."""
        update = self.update
        if isinstance(update, Shift):
            shifted: Array = rows + np.float32(update.scale) * update.values.astype(np.float32)[start:stop, None]
            return shifted
        if isinstance(update, Rows):
            rows = rows.copy()
            for place, row in enumerate(update.rows):
                if start <= row < stop:
                    rows[row - start] = update.values[place]
            return rows
        first, last = max(start, update.first_row), min(stop, update.first_row + len(self.b))
        if first >= last:
            return rows
        delta = np.zeros_like(rows)
        delta[first - start : last - start] = self.b[first - update.first_row : last - update.first_row] @ self.a
        if update.rounded:
            delta = delta.astype(self.type).astype(np.float32)
        merged = rows + delta
        if update.magnitude is not None:
            if self.column_factor is not None:
                merged = self.column_factor * merged
            else:
                norms = np.linalg.norm(old + delta, axis=1, keepdims=True)
                merged = update.magnitude[start:stop, None].astype(np.float32) / norms * merged
        return merged
