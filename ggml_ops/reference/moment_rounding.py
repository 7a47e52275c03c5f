"""Rounding rows by second moments: the readable twin of ggml_ops/moment_rounding, step for step in float32.

Sources: GPTQ (Frantar et al. 2022), LDLQ (Chee et al. 2023), coordinate descent as in QuantEase (Behdin et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qwen35_gguf.ggml_ops.reference.rounding import F32, Array, fused

PANEL = 256


class Shape(NamedTuple):
    """Weights of a block and of a group; ranges of quants, scales and mins; sixteen levels or None."""

    block: int
    group: int
    lowest: float
    highest: float
    lowest_scale: float
    highest_scale: float
    highest_min: float
    levels: Array | None = None


@dataclass
class Rows:
    """Weights (rows, columns), and what they are rounded to: values, d, dmin by block, scales, mins by group."""

    x: Array
    values: Array
    d: Array
    dmin: Array | None
    scales: Array
    mins: Array | None

    def copy(self) -> Rows:
        """Copy all but the weights."""
        dmin, mins = (None if a is None else a.copy() for a in (self.dmin, self.mins))
        return Rows(self.x, self.values.copy(), self.d.copy(), dmin, self.scales.copy(), mins)


class Rounding:
    """The steps for one matrix of rows; `decoded` and, in a panel, `slope`, H (decoded - x), follow every move."""

    def __init__(self, rows: Rows, shape: Shape, moments: Array) -> None:
        """Begin with given quants."""
        self.rows, self.shape, self.moments = rows, shape, moments
        self.columns = rows.x.shape[1]
        self.decoded = self.decode(slice(0, self.columns))
        self.slope = np.zeros_like(self.decoded)

    def scale(self, group: int) -> Array:
        """Return the scale of a group, (rows,)."""
        scale: Array = self.rows.d[:, group * self.shape.group // self.shape.block] * self.rows.scales[:, group]
        return scale

    def min(self, group: int) -> Array:
        """Return the min of a group, (rows,)."""
        if self.rows.dmin is None or self.rows.mins is None:
            return np.zeros(len(self.rows.x), F32)
        least: Array = self.rows.dmin[:, group * self.shape.group // self.shape.block] * self.rows.mins[:, group]
        return least

    def decode(self, columns: slice) -> Array:
        """Decode columns."""
        parts = []
        for i in range(columns.start, columns.stop):
            group = i // self.shape.group
            parts.append(self.rows.values[:, i] * self.scale(group) - self.min(group))
        return np.stack(parts, axis=1)

    def nearest(self, z: Array) -> Array:
        """Return the nearest levels."""
        if self.shape.levels is None:
            whole: Array = np.rint(np.clip(z, F32(self.shape.lowest), F32(self.shape.highest)))
            return whole
        middles = (self.shape.levels[1:] + self.shape.levels[:-1]) / F32(2)
        found: Array = self.shape.levels[np.searchsorted(middles, z, side="right")]
        return found

    def spread(self, change: Array, first: int, to: slice, out: Array, matrix: Array) -> None:
        """Add matrix[to, first...] change to out[:, to], one column of the change after the other."""
        for i in range(change.shape[1]):
            out[:, to] = fused(change[:, i, None], matrix[None, to, first + i], out[:, to])

    def hear(self, panel: slice, columns: slice, matrix: Array) -> Array:
        """Return what the errors of columns mean for a panel, (rows, columns), zero in others."""
        heard = np.zeros_like(self.decoded)
        off = self.decoded - self.rows.x
        self.spread(off[:, columns], columns.start, panel, heard, matrix)
        return heard

    def panels(self) -> list[slice]:
        """Return the columns of each panel."""
        return [slice(first, min(first + PANEL, self.columns)) for first in range(0, self.columns, PANEL)]

    def error_of(self, panel: slice) -> Array:
        """Return the error of a panel's columns, with each other and, twice, with those before it: (rows,)."""
        off = self.decoded - self.rows.x
        below = self.hear(panel, slice(0, panel.start), self.moments)
        own = self.hear(panel, panel, self.moments)
        error = np.zeros(len(off), F32)
        for i in range(panel.start, panel.stop):
            error = error + off[:, i] * ((below[:, i] + below[:, i]) + own[:, i])
        return error

    def measure(self) -> Array:
        """Return the error of each row."""
        error = np.zeros(len(self.decoded), F32)
        for panel in self.panels():
            error = error + self.error_of(panel)
        return error

    def feed_back(self, factor: Array) -> None:
        """Round each column from what the columns before it leave over."""
        for panel in self.panels():
            owed = self.hear(panel, slice(0, panel.start), factor)
            for i in range(panel.start, panel.stop):
                scale, least = self.scale(i // self.shape.group), self.min(i // self.shape.group)
                value = self.nearest((self.rows.x[:, i] - owed[:, i] + least) * inverse_or_zero(scale))
                self.rows.values[:, i] = np.where(scale == 0, self.rows.values[:, i], value)
                self.decoded[:, i] = self.rows.values[:, i] * scale - least
                off = self.decoded[:, i : i + 1] - self.rows.x[:, i : i + 1]
                self.spread(off, i, slice(i + 1, panel.stop), owed, factor)

    def move_quants(self, panel: slice) -> bool:
        """Move every quant of a panel to its best value; tell whether any moved."""
        moved = False
        for i in range(panel.start, panel.stop):
            curve = self.moments[i, i]
            if not curve > 0:
                continue
            scale, least = self.scale(i // self.shape.group), self.min(i // self.shape.group)
            value = self.nearest((self.decoded[:, i] - self.slope[:, i] / curve + least) * inverse_or_zero(scale))
            decoded = value * scale - least
            better = pays(decoded - self.decoded[:, i], self.slope[:, i], curve)
            if not better.any():
                continue
            moved = True
            change = np.where(better, decoded - self.decoded[:, i], F32(0))
            self.rows.values[:, i] = np.where(better, value, self.rows.values[:, i])
            self.decoded[:, i] = np.where(better, decoded, self.decoded[:, i])
            self.spread(change[:, None], i, panel, self.slope, self.moments)
        return moved

    def along(self, direction: Array, first: int) -> tuple[Array, Array]:
        """Return the slope and the curvature in a direction, of columns from `first` on."""
        columns = slice(first, first + direction.shape[1])
        reach = np.zeros_like(self.decoded)
        self.spread(direction, first, columns, reach, self.moments)
        slope: Array = np.zeros(len(direction), F32)
        curvature: Array = np.zeros(len(direction), F32)
        for i in range(direction.shape[1]):
            slope = slope + direction[:, i] * self.slope[:, first + i]
            curvature = curvature + direction[:, i] * reach[:, first + i]
        return slope, curvature

    def redecode(self, panel: slice, columns: range, better: Array) -> None:
        """Decode columns anew in the rows that are better."""
        for i in columns:
            decoded = self.decode(slice(i, i + 1))[:, 0]
            change = np.where(better, decoded - self.decoded[:, i], F32(0))
            self.decoded[:, i] = np.where(better, decoded, self.decoded[:, i])
            self.spread(change[:, None], i, panel, self.slope, self.moments)

    def move_group(self, panel: slice, group: int) -> None:
        """Move the scale of a group, then its min."""
        first, shape = group * self.shape.group, self.shape
        block, columns = first // shape.block, range(first, first + shape.group)

        def move(direction: Array, factor: Array, number: Array, lowest: float, highest: float) -> None:
            slope, curvature = self.along(direction, first)
            slope, curvature = factor * slope, factor * factor * curvature
            step = np.where(curvature > 0, -slope / curvature, F32(0))
            wanted = np.rint(np.clip(number[:, group] + step, F32(lowest), F32(highest)))
            better = pays(wanted - number[:, group], slope, curvature)
            if better.any():
                number[:, group] = np.where(better, wanted, number[:, group])
                self.redecode(panel, columns, better)

        if shape.lowest_scale < shape.highest_scale:
            values = self.rows.values[:, first : first + shape.group].copy()
            move(values, self.rows.d[:, block], self.rows.scales, shape.lowest_scale, shape.highest_scale)
        if self.rows.dmin is not None and self.rows.mins is not None:
            down = np.full((len(self.decoded), shape.group), F32(-1))
            move(down, self.rows.dmin[:, block], self.rows.mins, 0, shape.highest_min)

    def move_block(self, panel: slice, block: int) -> None:
        """Move d of a block, then dmin, to FP16 numbers of the same sign."""
        first = block * self.shape.block
        columns = range(first, first + self.shape.block)
        groups = [i // self.shape.group for i in columns]

        def move(direction: Array, number: Array) -> None:
            slope, curvature = self.along(direction, first)
            step = np.where(curvature > 0, -slope / curvature, F32(0))
            wanted = (number[:, block] + step).astype(np.float16).astype(F32)
            allowed = (wanted * number[:, block] > 0) & (np.abs(wanted) < F32(65536))
            better = pays(wanted - number[:, block], slope, curvature) & allowed
            if better.any():
                change = np.where(better, wanted - number[:, block], F32(0))
                number[:, block] = np.where(better, wanted, number[:, block])
                self.decoded[:, columns.start : columns.stop] = self.decode(slice(columns.start, columns.stop))
                reach = np.zeros_like(self.decoded)
                self.spread(direction, first, panel, reach, self.moments)
                self.slope[:, panel] = fused(change[:, None], reach[:, panel], self.slope[:, panel])

        move(self.rows.values[:, columns.start : columns.stop] * self.rows.scales[:, groups], self.rows.d)
        if self.rows.dmin is not None and self.rows.mins is not None:
            move(-self.rows.mins[:, groups], self.rows.dmin)

    def descend(self, panel: slice, rounds: int, passes: int) -> None:
        """Repeat all moves in a panel."""
        for number in range(rounds + 1):
            for _ in range(passes):
                if not self.move_quants(panel):
                    break
            if number == rounds:
                return
            for group in range(panel.start // self.shape.group, panel.stop // self.shape.group):
                self.move_group(panel, group)
            for block in range(panel.start // self.shape.block, panel.stop // self.shape.block):
                self.move_block(panel, block)


def inverse_or_zero(a: Array) -> Array:
    """Return 1 / a, and zero where a is zero."""
    inverse: Array = np.where(a == 0, F32(0), F32(1) / np.where(a == 0, F32(1), a))
    return inverse


def pays(change: Array, slope: Array, curvature: Array) -> Array:
    """Tell where a move lowers the error."""
    gain: Array = change * (slope + slope) + change * change * curvature
    return gain < 0


def round_rows(
    rows: Rows, shape: Shape, moments: Array, factor: Array | None, effort: tuple[int, int, int]
) -> tuple[Rows, Array, Array]:
    """Round rows; a row is taken where its error falls.

    Args:
        rows: with the first quantization.
        shape: of the format.
        moments: (columns, columns) float32.
        factor: the same shape, of `factorize`, or None.
        effort: sweeps over the row, rounds in a panel, passes over the quants.

    Returns:
        The rounded rows, and the error of each before and after.

    """
    with np.errstate(all="ignore"):
        state = Rounding(rows.copy(), shape, moments)
        before = state.measure()
        if factor is not None:
            values, decoded = state.rows.values.copy(), state.decoded.copy()
            state.feed_back(factor)
            worse = ~(state.measure() < before)[:, None]
            state.rows.values = np.where(worse, values, state.rows.values)
            state.decoded = np.where(worse, decoded, state.decoded)
        for _ in range(effort[0]):
            for panel in state.panels():
                state.slope = state.hear(panel, slice(0, state.columns), moments)
                state.descend(panel, *effort[1:])
        after = state.measure()
    better = (after < before)[:, None]
    made = state.rows

    def chosen(new: Array | None, old: Array | None) -> Array | None:
        return None if new is None or old is None else np.where(better, new, old)

    taken = [chosen(getattr(made, f), getattr(rows, f)) for f in ("values", "d", "dmin", "scales", "mins")]
    return Rows(rows.x, *taken), before, np.where(better[:, 0], after, before)  # type: ignore[arg-type]


def factorize(h: Array) -> Array:
    """Return M of H = M^T D M, unit lower triangular, mirrored; in float64, (n, n)."""
    upside_down = np.linalg.cholesky(h[::-1, ::-1].astype(np.float64))[::-1, ::-1].T
    m = upside_down / np.diag(upside_down)[:, None]
    mirrored: Array = m + np.tril(m, -1).T
    return mirrored
