"""Choose by held-out text how much moments are shrunk off the diagonal: how columns correlate is in part chance.

Weights are rounded by the moments of half of a text, and their errors measured by those of the other half. Of several
shrinkings, the one with the least errors is best. It depends on the input, and hardly on the type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding.round_rows import prepare, round_rows

Float = npt.NDArray[np.float32]

SHRINKINGS = (0.05, 0.1, 0.2, 0.4, 0.6)  # those that are compared
SAMPLED = 32  # rows of each tensor that they are compared on
WIDEST = 1024  # columns of a matrix that they are compared on: all would take longer than rounding


def sample(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the rows of weights (rows, columns) that stand for all: SAMPLED at most, in even steps."""
    return weights[:: steps(len(weights), SAMPLED)]


def steps(rows: int, most: int) -> int:
    """Return by how much to step through rows so that `most` are met at most."""
    return -(-rows // most)


def choose_shrinking(
    halves: Sequence[list[Float]],
    weights: Mapping[str, Float],
    types: Mapping[str, Type],
    counts: Mapping[str, int],
    importance: Float,
    threads: int = 1,
) -> float:
    """Return the shrinking with which weights, rounded by either half, err least on the other.

    Args:
        halves: the mean moments of two halves of a text: a whole matrix, or one for each 256 columns.
        weights: sampled rows of the tensors that read this input, (rows, columns).
        types: of the tensors.
        counts: rows of the whole tensors.
        importance: mean squares of the columns, (columns,).
        threads: that round.

    """
    narrow = [[one[:WIDEST, :WIDEST] for one in half] for half in halves]
    columns = sum(len(one) for one in narrow[0])
    errors = np.zeros(len(SHRINKINGS))
    for own, other in (narrow, narrow[::-1]):
        for number, shrinking in enumerate(SHRINKINGS):
            inputs = [prepare(one, threads, shrinking) for one in own]
            for name, sampled in weights.items():
                rows = np.ascontiguousarray(sampled[:, :columns], np.float32)
                blocks = round_rows(rows, types[name], inputs, importance[:columns], threads=threads).data
                error = kernels.dequantize(blocks, types[name], columns) - rows
                errors[number] += counts[name] * np.log(max(_quadratic(error, other), 1e-30))
    return SHRINKINGS[int(errors.argmin())]


def _quadratic(error: Float, moments: list[Float]) -> float:
    """Return the sum of error moments errorT over rows, (rows, columns)."""
    total, start = 0.0, 0
    for one in moments:
        part = error[:, start : start + len(one)]
        total += float(np.vdot(part @ one, part))
        start += len(one)
    return total
