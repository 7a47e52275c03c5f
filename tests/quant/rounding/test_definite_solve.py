"""Solving with a definite matrix, against numpy's elimination."""

from __future__ import annotations

import numpy as np
import pytest

from qwen35_gguf.quant.rounding.definite_solve import WIDTH, solve_definite


def symmetric(columns: int, damping: float) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(columns // 2, columns))
    return x.T @ x + damping * np.eye(columns)


@pytest.mark.unit
@pytest.mark.parametrize("columns", [1, 48, WIDTH, 3 * WIDTH - 5])
@pytest.mark.parametrize("damping", [1e-3, 1.0, -1.0], ids=["close", "damped", "indefinite"])
def test_the_solution_is_that_of_numpy(columns: int, damping: float) -> None:
    matrix, wanted = symmetric(columns, damping), np.random.default_rng(1).normal(size=(7, columns))
    expected = np.linalg.solve(matrix, wanted.T).T
    found = solve_definite(matrix.copy(), wanted.copy())
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
