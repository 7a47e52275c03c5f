"""Copies of recurrent states in half the bytes, or a quarter: the matrices of the delta nets as F16 or Q8_0.

The layout is that of llama.cpp's llama-memory-recurrent.cpp (state_write) behind two words of llama-context.cpp: cells;
then for each layer the type, the bytes of a row, and the row: first of all convolutions, which stay as they are, then
of all delta nets.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]

BLOCK = 32  # values that share a scale in Q8_0
F32 = 0  # GGML_TYPE_F32
_WORDS, _CELLS, _CELL, _LAYERS = 8, struct.Struct("<I"), 8, 8
_LAYER = struct.Struct("<iQ")
_HEAD = struct.Struct("<QQQ")  # bytes before the matrices, number of matrices, bytes of each


def pack(state: ByteArray, kind: str) -> ByteArray:
    """Return a recurrent state in fewer bytes; one that cannot be packed gets a few bytes more.

    Args:
        state: as llama.cpp gives it.
        kind: of `CHECKPOINT_TYPES`; f32 leaves it as it is.

    """
    if kind == "f32":
        return state
    start, count, size = _matrices(state)
    if count:
        layers = state[start:].reshape(count, _LAYER.size + size)
        values = np.ascontiguousarray(layers[:, _LAYER.size :]).view(np.float32)
        packed = _to_f16(values) if kind == "f16" else _to_q8_0(values)
        if packed is not None:
            heads = np.ascontiguousarray(layers[:, : _LAYER.size]).ravel()
            return np.concatenate([_bytes(_HEAD.pack(start, count, size)), state[:start], heads, *packed])
    return np.concatenate([_bytes(_HEAD.pack(len(state), 0, 0)), state])


def unpack(packed: ByteArray, kind: str) -> ByteArray:
    """Return the state that `pack` was given, up to rounding."""
    if kind == "f32":
        return packed
    start, count, size = _HEAD.unpack_from(packed.data)
    at = _HEAD.size
    if not count:
        return packed[at:]
    state = np.empty(start + count * (_LAYER.size + size), np.uint8)
    state[:start] = packed[at : at + start]
    at += start
    layers = state[start:].reshape(count, _LAYER.size + size)
    heads = count * _LAYER.size
    layers[:, : _LAYER.size] = packed[at : at + heads].reshape(count, _LAYER.size)
    body = packed[at + heads :]
    values = _from_f16(body) if kind == "f16" else _from_q8_0(body, count * size // 4)
    layers[:, _LAYER.size :] = values.reshape(count, size // 4).view(np.uint8)
    return state


def _matrices(state: ByteArray) -> tuple[int, int, int]:
    """Find the matrices: where the first one's layer begins, their number, the bytes of each; zeros if there are none.

    They are the last rows, all of the same size; the rows of convolutions before them are smaller or larger.
    """
    if len(state) < _WORDS + _CELLS.size:
        return 0, 0, 0
    (cells,) = _CELLS.unpack_from(state.data, _WORDS)
    at = _WORDS + _CELLS.size + cells * _CELL + _LAYERS
    found: list[tuple[int, int]] = []
    while at + _LAYER.size <= len(state):
        kind, row = _LAYER.unpack_from(state.data, at)
        if kind != F32 or not row or row % 4:
            break
        found.append((at, row * cells))
        at += _LAYER.size + row * cells
    if at != len(state) or len(found) % 2:
        return 0, 0, 0
    last = found[len(found) // 2 :]
    if not last or len({size for _, size in last}) > 1 or last[0][1] % (4 * BLOCK):
        return 0, 0, 0
    return last[0][0], len(last), last[0][1]


def _to_f16(values: npt.NDArray[np.float32]) -> list[ByteArray] | None:
    with np.errstate(over="ignore"):
        found = values.astype(np.float16)
    return [found.view(np.uint8).ravel()] if np.isfinite(found).all() else None


def _from_f16(body: ByteArray) -> npt.NDArray[np.float32]:
    return np.frombuffer(body.tobytes(), np.float16).astype(np.float32)


def _to_q8_0(values: npt.NDArray[np.float32]) -> list[ByteArray] | None:
    blocks = values.reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float32)
    if not np.isfinite(scales).all():
        return None
    numbers = np.rint(blocks / np.where(scales == 0, 1, scales)).astype(np.int8)
    return [scales.view(np.uint8).ravel(), numbers.view(np.uint8).ravel()]


def _from_q8_0(body: ByteArray, count: int) -> npt.NDArray[np.float32]:
    n_scales = count // BLOCK * 4
    scales = np.frombuffer(body[:n_scales].tobytes(), np.float32)
    return body[n_scales:].view(np.int8).reshape(-1, BLOCK) * scales[:, None]


def _bytes(data: bytes) -> ByteArray:
    return np.frombuffer(data, np.uint8)
