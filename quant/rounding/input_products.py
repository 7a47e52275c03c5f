"""What weights can make up for: products of the inputs of a matmul after quantized layers with what they should be.

With x the input of a matmul in the model as it is, z the one after quantized layers, and e the difference of the
residual streams that its result is added to (0 for what writes elsewhere), the weights whose product with z
comes nearest to W x + e are

    W + (W D + E) (H + damping)^-1,  H = sum z z^T,  D = sum (x - z) z^T,  E = sum e z^T.

They are what is rounded by H. (GPTAQ, Li et al. 2025, has D; Qronos, Zhang et al. 2025, a correction of this kind.)
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from qwen35_gguf.quant.rounding.moments import BLOCK, Entry, Kind, stored_shape
from qwen35_gguf.quant.rounding.round_rows import DAMPING, InputMoments, prepare

Float = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

SHARE = 1.0  # of the shift that is taken


class InputProducts:
    """The sums of one input, see the top of this file, and the squares of its columns."""

    def __init__(self, columns: int, rows: int) -> None:
        """Begin with zeros; `rows` of the weights that write into the stream, 0: they write elsewhere."""
        self.h, self.d = (np.zeros((columns, columns), np.float32) for _ in range(2))
        self.e = np.zeros((rows, columns), np.float32)
        self.squares, self.tokens = np.zeros(columns, np.float64), 0

    def add(self, exact: Float, found: Float, weights: Float, stream: Float | None) -> None:
        """Add tokens.

        Args:
            exact: inputs of the model as it is, (tokens, columns).
            found: inputs after quantized layers.
            weights: what each token counts, (tokens,).
            stream: by how much the stream is less than that of the model as it is, (tokens, rows).

        """
        weighted = found * weights[:, None]
        self.h += found.T @ weighted
        self.d += (exact - found).T @ weighted
        if stream is not None:
            self.e += stream.T @ weighted
        self.squares += np.einsum("ij,ij->j", found, found)
        self.tokens += len(found)

    def entry(self, name: str, kind: Kind) -> Entry:
        """Return the sums as a file has them."""
        columns = len(self.h)
        sums = np.zeros(stored_shape(kind, 1, columns), np.float32)
        if kind == "full":
            sums[0] = self.h
        else:
            for number, start in enumerate(range(0, columns, BLOCK)):
                part = self.h[start : start + BLOCK, start : start + BLOCK]
                sums[0, number, : len(part), : len(part)] = part
        return Entry(name, sums, self.squares[None], np.array([float(self.tokens)]))

    def prepared(self, kind: Kind) -> list[InputMoments]:
        """Return the moments to round by."""
        mean = self.h / np.float32(max(1, self.tokens))
        starts = [0] if kind == "full" else range(0, len(mean), BLOCK)
        width = len(mean) if kind == "full" else BLOCK
        return [prepare(np.ascontiguousarray(mean[i : i + width, i : i + width])) for i in starts]

    def shift(self, weights: Float) -> Array:
        """Return what is to be added to weights (rows, columns), bfloat16."""
        damped = self.h.astype(np.float64)
        damped[np.diag_indices(len(damped))] += max(DAMPING * float(np.diagonal(damped).mean()), 1e-30)
        wanted = weights @ self.d + (self.e if len(self.e) else 0)
        found: Array = (SHARE * np.linalg.solve(damped, wanted.T.astype(np.float64)).T).astype(ml_dtypes.bfloat16)
        return found
