"""Sums over the inputs of matmuls while a text is evaluated: X^T X, apart for the two halves of its chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.evaluation.token_effects import TokenEffects
from qwen35_gguf.quant.rounding.moments import BLOCK, Entry

Float = npt.NDArray[np.float32]

WRITERS = frozenset(("attn_output", "ssm_out", "ffn_down", "ffn_down_exps", "ffn_down_shexp"))
LEAST_STREAM = 1e-12  # mean square
STREAM_POWER = 1.0  # of the inverse mean square, by which what a matmul writes into the stream counts
SECOND_HALF = ".second-half"  # ends the names of its entries


def stream_weights(stream: Float) -> Float:
    """Return what tokens count by the size of the residual stream, (tokens, hidden): (tokens,) float32."""
    return mean_squares(stream) ** -STREAM_POWER


def mean_squares(stream: Float) -> Float:
    """Return the mean squares of the residual stream, (tokens, hidden), none of them zero: (tokens,) float32."""
    squares: Float = np.maximum(np.square(stream).mean(axis=1), LEAST_STREAM)
    return squares


class Sums:
    """The sums of a group of inputs.

    Tokens count by their effect (token_effects.py): in the layers of the main model by that of the residual stream, in
    the output matrix and the MTP head by that of the logits. What a matmul writes into the residual stream counts in
    relation to the stream as well: the next norm divides by its size. So a token of such a matmul is weighted by the
    inverse mean square of the stream that it was added to.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], widths: dict[str, int], layers: int, used: int) -> None:
        """Begin with zeros.

        Args:
            shapes: of the sums, as `files.stored_shape` gives them.
            widths: numbers of columns.
            layers: of the main model.
            used: experts of each token.

        """
        self._used = used
        self._layers = {f"blk.{layer}." for layer in range(layers)}
        self.sums = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self.squares = {name: np.zeros((shape[0], widths[name]), np.float64) for name, shape in shapes.items()}
        self.counts = {name: np.zeros(shape[0], np.float64) for name, shape in shapes.items()}
        self._waiting: list[tuple[str, Float, Any]] = []
        self._effects: TokenEffects | None = None

    def begin_chunk(self, effects: TokenEffects | None) -> None:
        """Take what the tokens of the next chunk count; None: all alike."""
        self._effects = effects

    def see_input(self, name: str, rows: Any, experts: Any, count: int) -> None:
        """Add the inputs of a matmul: (rows, columns), and the expert that each goes to, if there are any."""
        if name not in self.sums:
            return
        wide = np.array(rows, np.float32)
        if experts is None:
            self.squares[name][0] += np.einsum("ij,ij->j", wide, wide)
            self.counts[name][0] += len(wide)
        else:
            np.add.at(self.squares[name], experts, np.square(wide))
            self.counts[name] += np.bincount(experts, minlength=count)
        if name.split(".")[-2] in WRITERS:
            self._waiting.append((name, wide, experts))
        else:
            self._add(name, wide, experts)

    def see_residual(self, rows: Any) -> None:
        """Weigh the inputs that wait by the stream that their outputs were added to, (tokens, hidden)."""
        inverse = stream_weights(rows)
        waiting, self._waiting = self._waiting, []
        for name, wide, experts in waiting:
            each = 1 if experts is None else max(1, len(wide) // len(rows))
            weights = np.repeat(inverse, each)[-len(wide) :]  # the last block may keep its last tokens only
            last = len(wide) - len(weights)
            self._add(name, wide[last:] * np.sqrt(weights)[:, None], None if experts is None else experts[last:])

    def finish_chunk(self) -> None:
        """Add what still waits: this llama.cpp names the stream in another way, so that all tokens count alike."""
        waiting, self._waiting = self._waiting, []
        for name, wide, experts in waiting:
            self._add(name, wide, experts)

    def entries(self, end: str) -> list[Entry]:
        """Return the sums as a file has them, their names ending with `end`."""
        return [Entry(name + end, self.sums[name], self.squares[name], self.counts[name]) for name in self.sums]

    def _add(self, name: str, wide: Float, experts: Any) -> None:
        sums = self.sums[name]
        if self._effects is not None:
            in_layers = name[: name.find(".", 4) + 1] in self._layers
            effect = self._effects.stream if in_layers else self._effects.output
            # The last tokens are those of the rows: a last block, the MTP head and the output may have no others.
            weights = np.repeat(effect, 1 if experts is None else self._used)[-len(wide) :].astype(np.float32)
            wide = wide[-len(weights) :] * np.sqrt(weights)[:, None]
            experts = None if experts is None else experts[-len(weights) :]
        if experts is None:
            add_products(sums[0], wide)
            return
        for number in range(len(sums)):
            own = wide[experts == number]
            if len(own):
                add_products(sums[number], own)


def add_products(sums: Float, rows: Float) -> None:
    """Add rows^T rows, (columns, columns), or its blocks of 256 columns, to sums of that shape."""
    if sums.ndim == 2:
        sums += rows.T @ rows
        return
    for number, block in enumerate(sums):
        part = rows[:, number * BLOCK : (number + 1) * BLOCK]
        block[: part.shape[1], : part.shape[1]] += part.T @ part


class Halves:
    """The sums of every second chunk, and those of the others: what one half says is tested on the other.

    Attributes:
        halves: the sums of both.

    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], widths: dict[str, int], layers: int, used: int) -> None:
        """Begin with zeros; see `Sums`."""
        self.halves = Sums(shapes, widths, layers, used), Sums(shapes, widths, layers, used)
        self._now = self.halves[0]

    @property
    def names(self) -> list[str]:
        """The inputs."""
        return list(self.halves[0].sums)

    def begin_chunk(self, number: int, effects: TokenEffects | None) -> None:
        """Take the number of the next chunk, and what its tokens count; None: all alike."""
        self._now = self.halves[number % 2]
        self._now.begin_chunk(effects)

    def see_input(self, name: str, rows: Any, experts: Any, count: int) -> None:
        """Add the inputs of a matmul, see `Sums`."""
        self._now.see_input(name, rows, experts, count)

    def see_residual(self, rows: Any) -> None:
        """Weigh the inputs that wait, see `Sums`."""
        self._now.see_residual(rows)

    def finish_chunk(self) -> None:
        """Add what still waits."""
        self._now.finish_chunk()

    def entries(self) -> dict[str, Entry]:
        """Return the sums of both halves as a file of an unfinished run has them, under names of their own."""
        first, second = self.halves
        return {one.name: one for one in (*first.entries(""), *second.entries(SECOND_HALF))}

    def restore(self, entries: Mapping[str, Entry]) -> None:
        """Begin with what `entries` returned."""
        for half, end in zip(self.halves, ("", SECOND_HALF), strict=True):
            for name in half.sums:
                found = entries[name + end]
                half.sums[name][...] = found.sums
                half.squares[name][...] = found.squares
                half.counts[name][...] = found.counts


def whole_entry(name: str, first: Entry, second: Entry) -> Entry:
    """Add the halves of an entry."""
    return Entry(name, first.sums + second.sums, first.squares + second.squares, first.counts + second.counts)
