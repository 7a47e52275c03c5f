"""The state of a sequence of any length, made from that of a short one: its cells again and again, at rising positions.

Attention costs the same whatever the cells hold, and evaluating 131,072 tokens on a stock llama.cpp takes an hour.

Layout (`state_write` in llama-context.cpp, llama-memory-hybrid.cpp, llama-kv-cache.cpp, llama-memory-recurrent.cpp): a
magic number and the sequence; the number of streams; of the one stream the number of cells; for each cell its position,
one sequence id, and x, y and token of M-RoPE; whether values are transposed, the number of layers; the rows of all keys
by layer, then of all values; then the recurrent states, whose first cell has the position of the last token.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

CELL = np.dtype([("pos", "<i4"), ("n_seq", "<u4"), ("x", "<i4"), ("y", "<i4"), ("token", "<i4"), ("seq", "<i4")])
HEAD = 8
RECURRENT_CELL = np.dtype([("count", "<u4"), ("pos", "<i4"), ("n_seq", "<u4")])


@dataclass
class Reader:
    """A position in the bytes of a state."""

    data: Bytes
    at: int = 0

    def take(self, size: int) -> Bytes:
        """Return the next bytes."""
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> int:
        """Return the next number, of that `struct` format."""
        return int(struct.unpack(form, self.take(struct.calcsize(form)).tobytes())[0])


def lengthened(state: Bytes, cells: int) -> Bytes:
    """Return the state of a sequence of `cells` tokens, at positions from 0 on."""
    reader = Reader(state)
    head = reader.take(HEAD)
    if reader.number("<I") != 1:
        raise SystemExit("the state has several streams")
    count = reader.number("<I")
    times = -(-cells // count)
    cell = np.tile(reader.take(count * CELL.itemsize).view(CELL), times)[:cells]
    position = np.arange(cells)
    for name in ("pos", "x", "y"):
        cell[name] = position
    transposed, layers = reader.number("<I"), reader.number("<I")
    parts: list[Any] = [head, struct.pack("<II", 1, cells), cell, struct.pack("<II", transposed, layers)]
    for _ in range(layers):
        parts += rows(reader, count, cells)
    for _ in range(layers):
        parts += columns(reader, count, cells) if transposed else rows(reader, count, cells)
    recurrent = reader.take(RECURRENT_CELL.itemsize).copy().view(RECURRENT_CELL)
    recurrent["pos"] = cells - 1
    parts += [recurrent, reader.data[reader.at :]]
    return np.concatenate([np.frombuffer(part, np.uint8) for part in parts])


def rows(reader: Reader, count: int, cells: int) -> list[Any]:
    """Repeat the rows of a layer, one for each cell: type, bytes of a row, rows."""
    kind, size = reader.number("<i"), reader.number("<Q")
    found = reader.take(count * size).reshape(count, size)
    return [struct.pack("<iQ", kind, size), np.tile(found, (-(-cells // count), 1))[:cells]]


def columns(reader: Reader, count: int, cells: int) -> list[Any]:
    """Repeat transposed values of a layer: type, bytes of an element, elements of a cell, then those of all cells."""
    kind, size, elements = reader.number("<i"), reader.number("<I"), reader.number("<I")
    found = reader.take(elements * count * size).reshape(elements, count, size)
    repeated = np.ascontiguousarray(np.tile(found, (1, -(-cells // count), 1))[:, :cells])
    return [struct.pack("<iII", kind, size, elements), repeated]
