"""Round rows of weights by second moments: start from the usual quantization, then let the quadratic error fall.

The kernels (ggml_ops/moment_rounding) take numbers, not bytes: `fields` takes the blocks apart and puts them together.
The bytes do not depend on threads or on the instruction set. A row whose error does not fall keeps its first blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.errors import QuantizationError
from qwen35_gguf.ggml_ops import _native, target
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding.fields import LAYOUTS, Fields, pack, unpack

Array = np.ndarray[Any, np.dtype[Any]]
Float = npt.NDArray[np.float32]

TYPES = frozenset(LAYOUTS)
# Off the diagonal, moments are this much smaller than on the calibration text: how columns correlate there is in part
# chance. Of inputs for which nothing was chosen by held-out text (held_out.py), experts for example.
SHRINKING = 0.4
DAMPING = 0.01  # of the mean of the diagonal, for the factor only: errors are measured undamped
LEAST_PIVOT = 1e-4  # of the same mean


class Effort(NamedTuple):
    """How often the steps are repeated: sweeps over the row, rounds in each 256 columns, passes over the quants."""

    sweeps: int = 2
    rounds: int = 2
    passes: int = 4


@dataclass(frozen=True)
class InputMoments:
    """The mean second moments of what a matrix is multiplied with, ready for rounding.

    Attributes:
        matrix: (columns, columns) float32.
        factor: the same shape, for the error feedback.

    """

    matrix: Float
    factor: Float


class Rounded(NamedTuple):
    """Rows of blocks, (rows, row bytes) uint8, and the quadratic error of each row before and after."""

    data: Array
    before: Float
    after: Float


def prepare(matrix: Float, threads: int = 1, shrinking: float = SHRINKING) -> InputMoments:
    """Shrink, damp and factor moments, (columns, columns) float32, not negative definite."""
    diagonal = np.diagonal(matrix).astype(np.float32)
    mean = float(diagonal.mean(dtype=np.float64))
    shrunk = np.ascontiguousarray(matrix, np.float32) * np.float32(1 - shrinking)
    np.fill_diagonal(shrunk, diagonal)
    factor = shrunk.copy()
    factor[np.diag_indices(len(factor))] += np.float32(DAMPING * mean)
    _native.factorize(factor, max(LEAST_PIVOT * mean, np.finfo(np.float32).tiny), threads, target())
    return InputMoments(shrunk, factor)


def round_rows(
    x: Array,
    type: Type,  # noqa: A002
    moments: list[InputMoments],
    importance: Float | None = None,
    *,
    effort: Effort = Effort(),  # noqa: B008 (it cannot change)
    threads: int = 1,
) -> Rounded:
    """Round rows.

    Args:
        x: (rows, columns), any float dtype.
        type: one of TYPES.
        moments: of the whole row, or of each 256 columns, of which the last may be fewer.
        importance: (columns,) float32, for the first quantization; by default the diagonal of the moments.
        effort: how often steps are repeated.
        threads: that share the rows.

    Raises:
        QuantizationError: what kernels.quantize_rows refuses, or moments that are not as wide as the rows.

    """
    columns = x.shape[1]
    widths = [len(one.matrix) for one in moments]
    if sum(widths) != columns:
        raise QuantizationError(f"moments are {sum(widths)} wide, the rows have {columns} columns")
    if importance is None:
        importance = np.concatenate([np.diagonal(one.matrix) for one in moments])
    first = kernels.quantize_rows(x, type, importance, threads)
    wide = np.ascontiguousarray(x, dtype=np.float32)
    block, size = GGML_QUANT_SIZES[type]
    before, after = np.zeros(len(wide), np.float32), np.zeros(len(wide), np.float32)
    parts, start = [], 0
    for one, width in zip(moments, widths, strict=True):
        stop = start + width
        blocks = first[:, start // block * size : stop // block * size]
        data, old, new = _round(wide[:, start:stop], blocks, type, one, effort, threads)
        parts.append(data)
        before, after, start = before + old, after + new, stop
    return Rounded(np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0], before, after)


def _round(x: Float, blocks: Array, type: Type, moments: InputMoments, effort: Effort, threads: int) -> Rounded:  # noqa: A002
    rows = len(x)
    layout, block = LAYOUTS[type], GGML_QUANT_SIZES[type][0]
    fields = unpack(blocks, type)
    values, d, scales = (np.ascontiguousarray(a.reshape(rows, -1)) for a in (fields.values, fields.d, fields.scales))
    dmin, mins = (None if a is None else np.ascontiguousarray(a.reshape(rows, -1)) for a in (fields.dmin, fields.mins))
    before, after = np.empty(rows, np.float32), np.empty(rows, np.float32)
    lowest, highest = layout.quants
    ranges = (block, layout.group, float(lowest), float(highest), *map(float, layout.scales), float(layout.most_min))
    _native.round_rows(
        np.ascontiguousarray(x), values, d, dmin, scales, mins, moments.matrix, moments.factor,
        ranges, layout.levels, tuple(effort), before, after, threads, target(),
    )  # fmt: skip
    groups = block // layout.group
    made = Fields(
        d.reshape(-1),
        None if dmin is None else dmin.reshape(-1),
        scales.reshape(-1, groups),
        None if mins is None else mins.reshape(-1, groups),
        values.reshape(-1, block),
    )
    return Rounded(pack(made, type).reshape(rows, -1), before, after)
