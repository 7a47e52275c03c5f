"""Weights and importance matrices that are hard to quantize, as a table of seeded generators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

COLUMNS = 512  # two super-blocks, so that a tile has blocks of several rows

SHAPES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda r, n: r.standard_normal((n, COLUMNS)),
    "as weights are": lambda r, n: 0.02 * r.standard_normal((n, COLUMNS)),
    "heavy-tailed": lambda r, n: r.standard_cauchy((n, COLUMNS)),
    "all equal": lambda r, n: np.full((n, COLUMNS), r.standard_normal()),
    "all zero": lambda _, n: np.zeros((n, COLUMNS)),
    "all minus zero": lambda _, n: -np.zeros((n, COLUMNS)),
    "one outlier": lambda r, n: _with_outlier(r, 0.01 * r.standard_normal((n, COLUMNS))),
    "subnormal": lambda r, n: 1e-41 * r.standard_normal((n, COLUMNS)),
    "around the smallest normal": lambda r, n: 1e-38 * r.standard_normal((n, COLUMNS)),
    "around what counts as zero": lambda r, n: 1e-15 * r.standard_normal((n, COLUMNS)),
    "scales are subnormal in fp16": lambda r, n: 1e-6 * r.standard_normal((n, COLUMNS)),
    "scales overflow fp16": lambda r, n: 1e7 * r.standard_normal((n, COLUMNS)),
    "huge": lambda r, n: np.clip(1e38 * r.standard_normal((n, COLUMNS)), -3.4e38, 3.4e38),
    "negative only": lambda r, n: -np.abs(r.standard_normal((n, COLUMNS))),
    "far from zero": lambda r, n: 1e3 + 1e-3 * r.standard_normal((n, COLUMNS)),
    "far below zero": lambda r, n: -1e3 - 1e-4 * r.random((n, COLUMNS)),
    "alternating zero blocks": lambda r, n: _scale_blocks(r.standard_normal((n, COLUMNS)), 32, 0.0),
    "alternating tiny blocks": lambda r, n: _scale_blocks(r.standard_normal((n, COLUMNS)), 16, 1e-39),
    "alternating small blocks": lambda r, n: _scale_blocks(r.standard_normal((n, COLUMNS)), 32, 1e-20),
    "few distinct values": lambda r, n: r.integers(-3, 4, (n, COLUMNS)),
    "sparse": lambda r, n: r.standard_normal((n, COLUMNS)) * (r.random((n, COLUMNS)) < 0.05),
    "ties": lambda r, n: r.integers(-16, 17, (n, COLUMNS)) / 2,
}

IMPORTANCE: dict[str, Callable[[np.random.Generator], Array | None]] = {
    "none": lambda _: None,
    "uniform": lambda r: r.random(COLUMNS),
    "with zeros": lambda r: r.random(COLUMNS) * (r.random(COLUMNS) < 0.5),
    "all zero": lambda _: np.zeros(COLUMNS),
    "a zero super-block": lambda r: np.where(np.arange(COLUMNS) < 256, 0, r.random(COLUMNS)),
    "over many magnitudes": lambda r: np.exp(8 * r.standard_normal(COLUMNS)),
    "vanishing": lambda r: 1e-30 * r.random(COLUMNS),
}


def _with_outlier(r: np.random.Generator, x: Array) -> Array:
    x[:, r.integers(COLUMNS)] = 50
    return x


def _scale_blocks(x: Array, width: int, factor: float) -> Array:
    x.reshape(len(x), -1, width)[:, ::2] *= factor
    return x


def make(shape: str, weights: str, rows: int, seed: int) -> tuple[Array, Array | None]:
    """Make (rows, COLUMNS) float32 and an importance of COLUMNS, or None."""
    random = np.random.default_rng(seed)
    x = SHAPES[shape](random, rows).astype(np.float32)
    importance = IMPORTANCE[weights](random)
    return x, None if importance is None else importance.astype(np.float32)
