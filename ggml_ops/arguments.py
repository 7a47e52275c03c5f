"""Checks of arguments; their messages name the argument, what is expected and what was given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

ALIGNMENT = 64


def check_array(name: str, array: Any, shape: Sequence[int | str]) -> None:
    """Raise ValueError unless `array` is a C-contiguous float32 array of `shape`.

    Args:
        name: of the argument.
        array: what was given.
        shape: for each dimension its size, or a word for a dimension of any size but zero.

    """
    expected = "(" + ", ".join(map(str, shape)) + ")"
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: expected a numpy array {expected}, got {type(array).__name__}")
    if array.dtype != np.float32:
        raise ValueError(f"{name}: expected float32, got {array.dtype}")
    fits = array.ndim == len(shape) and all(
        have > 0 if isinstance(want, str) else have == want for have, want in zip(array.shape, shape, strict=False)
    )
    if not fits:
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array; make one with np.ascontiguousarray")


def empty(shape: Sequence[int]) -> Array:
    """Allocate float32 aligned to 64 bytes: storing a vector across two cache lines is slow."""
    count = math.prod(shape)
    spare = ALIGNMENT // np.dtype(np.float32).itemsize
    memory = np.empty(count + spare, np.float32)
    start = -memory.ctypes.data % ALIGNMENT // memory.itemsize
    return memory[start : start + count].reshape(shape)
