"""Solve with a positive definite matrix by multiplying blocks: LAPACK's triangular solves are several times slower."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Double = npt.NDArray[np.float64]

WIDTH = 128  # of the blocks on the diagonal


def solve_definite(matrix: Double, wanted: Double) -> Double:
    """Return wanted matrix^-1, (rows, columns), and overwrite both.

    By the factors of Cholesky, H = L L^T: Y L^T = wanted, then X L = Y, block after block. A matrix that rounding of
    its sums left indefinite is solved by elimination.

    Args:
        matrix: (columns, columns), symmetric.
        wanted: (rows, columns).

    """
    starts = range(0, len(matrix), WIDTH)
    blocks = [slice(start, start + WIDTH) for start in starts]
    inverses = []  # of the blocks of L on the diagonal
    diagonal = np.diagonal(matrix).copy()
    try:
        for own in blocks:
            left = slice(0, own.start)
            below = slice(min(own.stop, len(matrix)), None)
            known = matrix[own, left]
            corner = matrix[own, own] - known @ known.T
            inverse = np.linalg.inv(np.linalg.cholesky(corner))
            matrix[below, own] = (matrix[below, own] - matrix[below, left] @ known.T) @ inverse.T
            inverses.append(inverse)
    except np.linalg.LinAlgError:
        return _eliminated(matrix, diagonal, wanted)
    for own, inverse in zip(blocks, inverses, strict=True):
        wanted[:, own] = (wanted[:, own] - wanted[:, : own.start] @ matrix[own, : own.start].T) @ inverse.T
    for own, inverse in zip(blocks[::-1], inverses[::-1], strict=True):
        wanted[:, own] = (wanted[:, own] - wanted[:, own.stop :] @ matrix[own.stop :, own]) @ inverse
    return wanted


def _eliminated(matrix: Double, diagonal: Double, wanted: Double) -> Double:
    """Solve as `solve_definite` does, by the upper half of the matrix, which it leaves."""
    upper = np.triu(matrix, 1)
    whole = upper + upper.T + np.diag(diagonal)
    found: Double = np.linalg.solve(whole, wanted.T).T
    return found
