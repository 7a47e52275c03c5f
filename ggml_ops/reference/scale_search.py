"""The searches for scales of ggml-quants.c, for all blocks of a batch: (blocks, n) float32.

A search guesses scales, rounds the block for each guess, computes the best scale for these quants by weighted least
squares, and keeps the guess with the smallest error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qwen35_gguf.ggml_ops.reference.rounding import (
    F32,
    GROUP_MAX_EPS,
    Array,
    byte,
    divide,
    extreme,
    nearest,
    ordered_max,
    ordered_min,
    ordered_sum,
)


class Scale(NamedTuple):
    """x is about scale * (quants - nmax): (blocks,) float32, and (blocks, n) int32 from 0 to 2 nmax - 1."""

    scale: Array
    quants: Array


class ScaleMin(NamedTuple):
    """x is about scale * quants - min: (blocks,) float32 twice, and (blocks, n) int32 from 0 to nmax."""

    scale: Array
    min: Array
    quants: Array


class Steps(NamedTuple):
    """The guesses of make_qkx_quants: nmax + first + i * step for i from 0 to tries, over the range of the block."""

    first: float
    step: float
    tries: int


IMATRIX_STEPS = Steps(-0.9, 0.05, 36)  # with an importance matrix, in all formats


def make_qx_quants(x: Array, weights: Array, nmax: int) -> Scale:
    """Search a scale without a min: make_qx_quants with rmse_type 1, nineteen guesses around -nmax / extreme."""
    top = extreme(x)
    empty = np.abs(top) < GROUP_MAX_EPS

    def fit(inverse: Array) -> tuple[Array, Array]:
        quants = np.clip(nearest(inverse[:, None] * x), -nmax, nmax - 1).astype(np.float32)
        return ordered_sum(weights * x * quants), ordered_sum(weights * quants * quants)

    inverse = F32(-nmax) / top
    sum_lx, sum_l2 = fit(inverse)
    scale = divide(sum_lx, sum_l2)
    best = scale * sum_lx
    for step in (*range(-9, 0), *range(1, 10)):
        guess = -(F32(nmax) + F32(0.1) * F32(step)) / top
        sum_lx, sum_l2 = fit(guess)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        inverse = np.where(better, guess, inverse)
        scale = np.where(better, divide(sum_lx, sum_l2), scale)
        best = np.where(better, scale * sum_lx, best)
    quants = np.clip(nearest(inverse[:, None] * x), -nmax, nmax - 1) + nmax
    return Scale(np.where(empty, F32(0), scale), np.where(empty[:, None], 0, quants))


def make_q3_quants(x: Array, nmax: int) -> Scale:
    """Search a scale without a min: make_q3_quants, one guess, then quants move one at a time while that helps."""
    top = extreme(x)
    empty = np.abs(top) < GROUP_MAX_EPS
    w = x * x
    wx = w * x
    quants = np.clip(nearest((F32(-nmax) / top)[:, None] * x), -nmax, nmax - 1).astype(np.float32)
    sum_lx, sum_l2 = ordered_sum(wx * quants), ordered_sum(w * quants * quants)
    for _ in range(5):
        for i in range(x.shape[1]):
            old = quants[:, i]
            lx = sum_lx - wx[:, i] * old
            l2 = sum_l2 - w[:, i] * old * old
            new = np.clip(nearest(x[:, i] * l2 / lx), -nmax, nmax - 1).astype(np.float32)
            new_lx = lx + wx[:, i] * new
            new_l2 = l2 + w[:, i] * new * new
            better = (lx > 0) & (new != old) & (new_l2 > 0) & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
            quants[:, i] = np.where(better, new, old)
            sum_lx, sum_l2 = np.where(better, new_lx, sum_lx), np.where(better, new_l2, sum_l2)
    scale = np.where((sum_l2 > 0) & ~empty, divide(sum_lx, sum_l2), F32(0))
    return Scale(scale, np.where(empty[:, None], 0, quants.astype(np.int32) + nmax))


def make_qkx_quants(x: Array, weights: Array, nmax: int, steps: Steps, *, absolute: bool = False) -> ScaleMin:
    """Search a scale and a min: make_qkx2_quants and make_qkx3_quants, which agree when weights are given.

    Args:
        x: (blocks, n).
        weights: (blocks, n), not negative.
        nmax: the largest quant.
        steps: the guesses.
        absolute: minimize the weighted absolute error, not the squared one.

    """
    high, low = ordered_max(x), ordered_min(x)
    low = np.where(low > 0, F32(0), low)
    flat = ~(high > low)
    sum_w, sum_x = np.add.accumulate(weights, axis=-1)[:, -1], np.add.accumulate(weights * x, axis=-1)[:, -1]

    def quantize(inverse: Array, low: Array) -> Array:
        return np.clip(nearest(inverse[:, None] * (x - low[:, None])), 0, nmax)

    def error_of(quants: Array, scale: Array, low: Array) -> Array:
        off = scale[:, None] * quants.astype(np.float32) + low[:, None] - x
        return ordered_sum(weights * (np.abs(off) if absolute else off * off))

    first_low = low
    inverse = F32(nmax) / (high - low)
    scale = F32(1) / inverse
    quants = quantize(inverse, low)
    best = error_of(quants, scale, low)
    for i in range(steps.tries + 1):
        target = F32(steps.first) + F32(steps.step) * F32(i) + F32(nmax)
        guess = quantize(target / (high - low), low)
        q = guess.astype(np.float32)
        wq = weights * q
        sum_l, sum_l2, sum_xl = ordered_sum(wq), ordered_sum(wq * q), ordered_sum(wq * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above_zero = new_low > 0
        new_scale = np.where(above_zero, sum_xl / sum_l2, new_scale)
        new_low = np.where(above_zero, F32(0), new_low)
        error = error_of(guess, new_scale, new_low)
        better = (error < best) & (determinant > 0)
        best = np.where(better, error, best)
        quants = np.where(better[:, None], guess, quants)
        scale, low = np.where(better, new_scale, scale), np.where(better, new_low, low)
    return ScaleMin(np.where(flat, F32(0), scale), -np.where(flat, first_low, low), np.where(flat[:, None], 0, quants))


def make_qp_quants(x: Array, weights: Array, nmax: int) -> tuple[Array, Array]:
    """Search the scale of scales, which are not negative: make_qp_quants.

    Args:
        x: (blocks, n) scales or mins.
        weights: (blocks, n).
        nmax: the largest quant.

    Returns:
        (blocks,) float32 scale, and (blocks, n) int32 quants: bytes, which wrap as in ggml.

    """
    most = np.maximum(ordered_max(x), F32(0))
    empty = most < GROUP_MAX_EPS

    def error_of(quants: Array, scale: Array) -> Array:
        off = x - scale[:, None] * quants.astype(np.float32)
        return ordered_sum(weights * off * off)

    inverse = F32(nmax) / most
    best = error_of(byte(nearest(inverse[:, None] * x)), F32(1) / inverse)
    for step in (*range(-4, 0), *range(1, 5)):
        guess = (F32(0.1) * F32(step) + F32(nmax)) / most
        error = error_of(np.minimum(nearest(guess[:, None] * x), nmax), F32(1) / guess)
        better = error < best
        best, inverse = np.where(better, error, best), np.where(better, guess, inverse)
    unwrapped = np.minimum(nearest(inverse[:, None] * x), nmax).astype(np.float32)
    sum_lx, sum_l2 = ordered_sum(weights * x * unwrapped), ordered_sum(weights * unwrapped * unwrapped)
    quants = byte(unwrapped.astype(np.int32))
    for _ in range(5):
        for i in range(x.shape[1]):
            w, old = weights[:, i], quants[:, i].astype(np.float32)
            lx = sum_lx - w * x[:, i] * old
            l2 = sum_l2 - w * old * old
            moved = np.minimum(nearest(x[:, i] * l2 / lx), nmax)
            new = moved.astype(np.float32)
            new_lx = lx + w * x[:, i] * new
            new_l2 = l2 + w * new * new
            better = (lx > 0) & (l2 > 0) & (moved != quants[:, i])
            better &= new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2
            quants[:, i] = np.where(better, byte(moved), quants[:, i])
            sum_lx, sum_l2 = np.where(better, new_lx, sum_lx), np.where(better, new_l2, sum_l2)
    scale = np.where((sum_l2 > 0) & ~empty, divide(sum_lx, sum_l2), F32(0))
    return scale, np.where(empty[:, None], 0, quants)
