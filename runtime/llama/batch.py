"""The rows of one call: tokens or embeddings, with their positions and sequences."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen35_gguf.runtime.llama.library import library

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

SECTIONS = 4  # of M-RoPE in llama.cpp: time, row, column, and one that is not used


@dataclass(frozen=True)
class Part:
    """Consecutive tokens of one sequence in a call.

    Attributes:
        tokens: ids.
        pos: position of the first.
        seq: the sequence.
        outputs: rows at the end that get logits.
        embd: (tokens, n_embd) float32, the hidden states that the context of an MTP head takes.

    """

    tokens: Sequence[int]
    pos: int
    seq: int = 0
    outputs: int = 0
    embd: FloatArray | None = None


class Batch:
    """A `llama_batch` over arrays of NumPy, filled again for each call; nothing is to be freed.

    Attributes:
        capacity: rows.
        struct: the `llama_batch`.

    """

    def __init__(self, capacity: int, n_embd: int = 0, *, tokens: bool = True) -> None:
        """Allocate the arrays.

        Args:
            capacity: rows.
            n_embd: width of an embedding for each row; 0 without embeddings.
            tokens: whether rows have token ids. Without them a position has `SECTIONS` parts, as images need.

        """
        lib = library()
        self.capacity = capacity
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity if tokens else SECTIONS * capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self._sequence = np.zeros(capacity, np.int32)
        self._embd = np.zeros((capacity, n_embd), np.float32) if n_embd else None
        self._counts = np.ones(capacity, np.int32)
        first = self._sequence.ctypes.data
        self._rows = first + 4 * np.arange(capacity, dtype=np.uint64)
        self.struct = lib.llama_batch()
        if tokens:
            self.struct.token = self._token.ctypes.data_as(ctypes.POINTER(lib.llama_token))
        self.struct.pos = self._pos.ctypes.data_as(ctypes.POINTER(lib.llama_pos))
        self.struct.n_seq_id = self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self.struct.seq_id = self._rows.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        self.struct.logits = self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        if self._embd is not None:
            self.struct.embd = self._embd.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def fill(self, parts: Sequence[Part]) -> None:
        """Set the tokens of some sequences, one part after the other."""
        start = 0
        for part in parts:
            stop = start + len(part.tokens)
            self._token[start:stop] = part.tokens
            self._pos[start:stop] = np.arange(part.pos, part.pos + stop - start, dtype=np.int32)
            self._sequence[start:stop] = part.seq
            self._outputs[start : stop - part.outputs] = 0
            self._outputs[stop - part.outputs : stop] = 1
            if part.embd is not None and self._embd is not None:
                self._embd[start:stop] = part.embd
            start = stop
        self.struct.n_tokens = start

    def fill_embeddings(self, values: FloatArray, positions: IntArray, *, seq: int = 0, outputs: int = 0) -> None:
        """Set embeddings, (rows, n_embd), at positions (`SECTIONS`, rows) of one sequence."""
        n = len(values)
        if self._embd is not None:
            self._embd[:n] = values
        self._pos[: SECTIONS * n] = positions.reshape(-1)
        self.struct.n_tokens = n
        self._sequence[:n] = seq
        self._outputs[:n] = 0
        self._outputs[n - outputs : n] = 1
