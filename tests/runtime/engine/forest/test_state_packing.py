"""Copies of recurrent states come back up to rounding, in half or a third of the bytes, whatever the layout."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.engine.forest.state_packing import pack, unpack

pytestmark = pytest.mark.unit


def layout(matrices: np.ndarray, convolutions: np.ndarray) -> np.ndarray:
    """Bytes as llama.cpp writes them, of (layers, values) each."""
    data = struct.pack("<II", 0xAF143CD8, 0) + struct.pack("<IiIII", 1, 7, 0, 0, 99)
    for rows in (convolutions, matrices):
        for row in rows.astype(np.float32):
            data += struct.pack("<iQ", 0, row.nbytes) + row.tobytes()
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize(("kind", "share", "error"), [("f16", 0.5, 2**-11), ("q8_0", 9 / 32, 1 / 254)])
@pytest.mark.parametrize("layers", [1, 3])
def test_matrices_are_rounded_and_the_rest_is_exact(kind: str, share: float, error: float, layers: int) -> None:
    rng = np.random.default_rng(0)
    matrices, convolutions = rng.normal(size=(layers, 4096)), rng.normal(size=(layers, 30))
    state = layout(matrices, convolutions)
    packed = pack(state, kind)
    assert packed.nbytes < share * 4 * matrices.size + 4 * convolutions.size + 200
    found = unpack(packed, kind)
    assert found.nbytes == state.nbytes
    size = layers * (12 + 4 * 4096)
    assert found[:-size].tobytes() == state[:-size].tobytes()
    exact = matrices.astype(np.float32)
    back = found[-size:].reshape(layers, -1)[:, 12:].copy().view(np.float32)
    largest = np.abs(exact).reshape(-1, 32).max(axis=1).repeat(32).reshape(exact.shape)
    assert (np.abs(back - exact) <= 1.01 * error * (largest if kind == "q8_0" else np.abs(exact)) + 1e-7).all()


def test_f32_is_left_as_it_is() -> None:
    state = layout(np.ones((2, 64)), np.ones((2, 6)))
    assert pack(state, "f32") is state
    assert unpack(state, "f32") is state


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_what_cannot_be_rounded_comes_back_exactly(kind: str) -> None:
    state = layout(np.full((2, 64), np.inf), np.ones((2, 6)))
    assert unpack(pack(state, kind), kind).tobytes() == state.tobytes()


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@given(data=st.binary(max_size=200))
def test_any_other_bytes_come_back_exactly(kind: str, data: bytes) -> None:
    state = np.frombuffer(data, np.uint8)
    assert unpack(pack(state, kind), kind).tobytes() == data
