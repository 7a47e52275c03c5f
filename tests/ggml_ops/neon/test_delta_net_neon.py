"""The NEON kernels of the gated delta rule and its convolution, cross-compiled and run by qemu, the state in place."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs.arm_emulator import NEEDED, compile_with_kernels, emulate
from qwen35_gguf.ggml_ops import reference

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-5

pytestmark = NEEDED


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("run_delta_net.cpp")
    return compile_with_kernels("delta_net", source, tmp_path_factory.mktemp("neon"))


def run(
    program: Path, target: str, kernel_size: int, tokens: int, size: int, gates: int, snapshots: int, *x: Array
) -> Array:
    header = struct.pack("16s5q", target.encode(), kernel_size, tokens, size, gates, snapshots)
    inputs = header + b"".join(array.astype(np.float32).tobytes() for array in x)
    return np.frombuffer(emulate(program, inputs), np.float32)


def assert_close(ours: Array, reference: Array) -> None:
    assert np.isfinite(ours).all()
    assert np.abs(ours - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("target", ["neon", "portable"])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("size", [37, 64, 128])
@pytest.mark.parametrize(("tokens", "snapshots"), [(1, 1), (5, 3), (9, 1), (11, 1), (70, 1), (70, 4)])
def test_gated_delta_rule(program: Path, target: str, per_column: bool, size: int, tokens: int, snapshots: int) -> None:
    random = np.random.default_rng(tokens)
    q, k, v = random.standard_normal((3, tokens, 1, size)).astype(np.float32)
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    gates = size if per_column else 1
    g = -np.exp(2 * random.standard_normal((tokens, 1, gates)) - 2).astype(np.float32)
    beta = random.random((tokens, 1)).astype(np.float32)
    state = random.standard_normal((1, size, size)).astype(np.float32)
    found = run(program, target, 0, tokens, size, gates, snapshots, q, k, v, g, beta, state)
    gates_of_heads = g if per_column else g[:, :, 0]
    out, states = reference.gated_delta_rule(q, k, v, gates_of_heads, beta, state, snapshots=snapshots)
    assert_close(found[: out.size], out.ravel())
    for ours, expected in zip(found[out.size :].reshape(snapshots, -1), states.reshape(snapshots, -1), strict=True):
        assert_close(ours, expected)


@pytest.mark.parametrize("target", ["neon", "portable"])
@pytest.mark.parametrize("kernel_size", [2, 4, 7])
@pytest.mark.parametrize(("tokens", "channels"), [(1, 16), (20, 131)])
def test_convolution(program: Path, target: str, kernel_size: int, tokens: int, channels: int) -> None:
    random = np.random.default_rng(kernel_size)
    x = random.standard_normal((tokens, channels)).astype(np.float32)
    weight = random.standard_normal((channels, kernel_size)).astype(np.float32)
    state = random.standard_normal((channels, kernel_size - 1)).astype(np.float32)
    found = run(program, target, kernel_size, tokens, channels, 0, 1, x, weight, state)
    out, new_state = reference.causal_conv1d_silu(x, weight, state)
    assert_close(found[: x.size], out.ravel())
    np.testing.assert_array_equal(found[x.size :].reshape(state.shape), new_state)
