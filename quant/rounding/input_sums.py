"""What weights can make up for: sums over the inputs of a matmul after quantized layers, and what they should be.

With x the input of a matmul in the model as it is, z the one after quantized layers, and e the difference of the
residual streams that its result is added to (0 for what writes elsewhere), the weights whose matmul with z
comes nearest to W x + e are

    W + C (H + damping)^-1,  H = sum z z^T,  C = sum (W (x - z) + e) z^T.

They are what is rounded by H. (GPTAQ, Li et al. 2025, has D = sum (x - z) z^T; Qronos, Zhang et al. 2025, a correction
of this kind.) What writes into the stream has fewer rows than columns: C costs less than D there. Of an input that
many weights read, D is summed, and C is W D.

The damping is chosen for each tensor by cross-validation: the sums of half the chunks give the shift, those of the
other half tell how near it comes. Some rows and columns stand for all: how much of a shift is chance depends little on
which they are. Where none comes nearer than the weights as they are, they stay. So is how much moments are shrunk off
the diagonal, for each input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.quant.rounding.definite_solve import solve_definite
from qwen35_gguf.quant.rounding.held_out import WIDEST, choose_shrinking, sample, steps
from qwen35_gguf.quant.rounding.moments import BLOCK, Entry, Kind, stored_shape
from qwen35_gguf.quant.rounding.round_rows import InputMoments, prepare

Float = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

HALVES = 2
DAMPINGS = (0.003, 0.03, 0.3, 3.0)  # of the mean of the diagonal of H; those that are compared
PANEL = 512  # columns of H that are summed in one matmul, as far as they are above its diagonal
COMPARED = 256  # rows of each tensor that they are compared on


class InputSums:
    """The sums of one input over either half of a text, see the top of this file, and the squares of its columns."""

    def __init__(self, columns: int, writer: Float | None = None) -> None:
        """Begin with zeros; `writer`: the weights (rows, columns) of what writes into the stream, the only reader."""
        self._upper = np.zeros((HALVES, columns, columns), np.float32)  # H; what is left of the blocks is stale
        self._whole = True  # nothing is stale
        self._writer = writer
        self._d = np.zeros((HALVES, columns if writer is None else len(writer), columns), np.float32)  # D, or C
        self.squares, self.tokens = np.zeros(columns, np.float64), 0

    def add(self, exact: Float, found: Float, weights: Float, stream: Float | None, half: int) -> None:
        """Add tokens.

        Args:
            exact: inputs of the model as it is, (tokens, columns).
            found: inputs after quantized layers.
            weights: what each token counts, (tokens,), not negative.
            stream: by how much the stream is less than that of the model as it is, (tokens, rows); of a writer only.
            half: of the text, 0 or 1.

        """
        roots = np.sqrt(weights)[:, None]
        counted = found * roots
        for start in range(0, counted.shape[1], PANEL):
            self._upper[half, start : start + PANEL, start:] += counted[:, start : start + PANEL].T @ counted[:, start:]
        self._whole = False
        wanted = exact - found
        if self._writer is not None:
            wanted = wanted @ self._writer.T
            if stream is not None:
                wanted += stream
        wanted *= roots
        self._d[half] += wanted.T @ counted
        self.squares += np.einsum("ij,ij->j", found, found)
        self.tokens += len(found)

    @property
    def _h(self) -> Float:
        """H of both halves."""
        if not self._whole:
            for half in self._upper:
                for start in range(0, len(half), PANEL):
                    half[start + PANEL :, start : start + PANEL] = half[start : start + PANEL, start + PANEL :].T
            self._whole = True
        return self._upper

    def entry(self, name: str, kind: Kind) -> Entry:
        """Return the sums as a file has them."""
        moments, columns = self._h.sum(axis=0), self._h.shape[1]
        sums = np.zeros(stored_shape(kind, 1, columns), np.float32)
        if kind == "full":
            sums[0] = moments
        else:
            for number, start in enumerate(range(0, columns, BLOCK)):
                part = moments[start : start + BLOCK, start : start + BLOCK]
                sums[0, number, : len(part), : len(part)] = part
        return Entry(name, sums, self.squares[None], np.array([float(self.tokens)]))

    @property
    def importance(self) -> Float:
        """The mean squares of the columns."""
        found: Float = (self.squares / max(1, self.tokens)).astype(np.float32)
        return found

    def prepared(self, kind: Kind, shrinking: float, threads: int = 1) -> list[InputMoments]:
        """Return the moments to round by."""
        return [prepare(one, threads, shrinking) for one in self._parts(self._h.sum(axis=0), kind)]

    def shrinking(self, weights: Mapping[str, Float], types: Mapping[str, Type], kind: Kind, threads: int = 1) -> float:
        """Return the shrinking with which weights (rows, columns), rounded by either half, err least on the other."""
        sampled = {name: sample(whole) for name, whole in weights.items()}
        counts = {name: len(whole) for name, whole in weights.items()}
        halves = [self._parts(half, kind) for half in self._h]
        return choose_shrinking(halves, sampled, types, counts, self.importance, threads)

    def _parts(self, moments: Float, kind: Kind) -> list[Float]:
        """Return the mean moments of sums, whole or in blocks."""
        width = len(moments) if kind == "full" else BLOCK
        starts = range(0, len(moments), width)
        mean = moments / np.float32(max(1, self.tokens))
        return [np.ascontiguousarray(mean[i : i + width, i : i + width]) for i in starts]

    def shifts(self, weights: Mapping[str, Float]) -> dict[str, Array]:
        """Return what is to be added to the weights that read this input: each (rows, columns), bfloat16."""
        chosen = dict(zip(weights, self._dampings(weights), strict=True))
        found: dict[str, Array] = {}
        for damping in dict.fromkeys(chosen.values()):
            own = {name: rows for name, rows in weights.items() if chosen[name] == damping}
            if damping is None:
                found |= {name: np.zeros(rows.shape, ml_dtypes.bfloat16) for name, rows in own.items()}
                continue
            # Of D, which may have fewer rows than the weights, the solution is the same for all of them.
            solved = _solve(self._h.sum(axis=0), damping, self._d.sum(axis=0))
            for name, rows in own.items():
                found[name] = (solved if self._writer is not None else rows @ solved).astype(ml_dtypes.bfloat16)
        return {name: found[name] for name in weights}

    def _dampings(self, weights: Mapping[str, Float]) -> list[float | None]:
        """Choose the damping of each tensor by the shifts of some rows in some columns; None: it is not shifted."""
        sampled = [slice(None, None, steps(len(rows), COMPARED)) for rows in weights.values()]
        rows = [whole[own] for whole, own in zip(weights.values(), sampled, strict=True)]
        owners = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        columns = slice(None, None, steps(len(self._h[0]), WIDEST))
        moments = np.ascontiguousarray(self._h[:, columns, columns])
        if self._writer is None:
            wanted = np.stack([np.concatenate(rows) @ np.ascontiguousarray(half[:, columns]) for half in self._d])
        else:
            wanted = np.ascontiguousarray(self._d[:, sampled[0], columns])
        errors = np.stack([_held_out(moments, wanted, damping, owners) for damping in DAMPINGS])
        best = errors.argmin(axis=0)
        return [DAMPINGS[choice] if errors[choice, number] < 0 else None for number, choice in enumerate(best)]


def _held_out(moments: Float, wanted: Float, damping: float, owners: Array) -> Array:
    """Return by how much the error of each tensor on either half changes by the shift that the other half gives.

    Args:
        moments: of both halves, (2, columns, columns).
        wanted: C of both halves, (2, rows, columns).
        damping: see DAMPINGS.
        owners: number of the tensor of each row.

    """
    total = np.zeros(int(owners.max()) + 1)
    for half in range(HALVES):
        shift = _solve(moments[half], damping, wanted[half])
        change = shift @ moments[1 - half] - 2 * wanted[1 - half]
        total += np.bincount(owners, np.einsum("ij,ij->i", shift, change))
    return total


def _solve(moments: Float, damping: float, wanted: Float) -> Float:
    """Return wanted (moments + damping)^-1."""
    damped = moments.astype(np.float64)
    damped[np.diag_indices(len(damped))] += max(damping * float(np.diagonal(damped).mean()), 1e-30)
    return solve_definite(damped, wanted.astype(np.float64)).astype(np.float32)
