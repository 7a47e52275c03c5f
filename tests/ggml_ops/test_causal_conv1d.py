"""The convolution and its SiLU against torch's conv1d in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qwen35_gguf import ggml_ops

Array = np.ndarray[Any, Any]


def by_torch(x: Array, weight: Array, state: Array) -> Array:
    inputs = torch.from_numpy(np.concatenate([state.T, x]).astype(np.float64)).T[None]
    size = torch.from_numpy(weight.astype(np.float64))[:, None]
    return torch.nn.functional.silu(torch.nn.functional.conv1d(inputs, size, groups=len(weight)))[0].T.numpy()


def make(tokens: int, channels: int, size: int, scale: float = 1.0) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(tokens + channels)
    shapes = ((tokens, channels), (channels, size), (channels, size - 1))
    x, weight, state = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return scale * x, weight, state


@pytest.mark.parametrize("target", ggml_ops.targets())
@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("channels", [1, 15, 16, 31, 64, 100, 700])
@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 129])
def test_equals_torch(monkeypatch: pytest.MonkeyPatch, target: str, size: int, channels: int, tokens: int) -> None:
    monkeypatch.setenv("QWEN35_CPU", target)
    x, weight, state = make(tokens, channels, size)
    out, new_state = ggml_ops.causal_conv1d_silu(x, weight, state)
    np.testing.assert_allclose(out, by_torch(x, weight, state), rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(new_state, np.concatenate([state.T, x])[-(size - 1) :].T)
    twin_out, twin_state = ggml_ops.reference.causal_conv1d_silu(x, weight, state)
    np.testing.assert_allclose(twin_out, by_torch(x, weight, state), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(twin_state, new_state)


@pytest.mark.parametrize("threads", [2, 3, 0])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    case = make(200, 7000, 4)  # work enough for five
    expected = ggml_ops.causal_conv1d_silu(*case, threads=1)
    for ours, reference in zip(ggml_ops.causal_conv1d_silu(*case, threads=threads), expected, strict=True):
        np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("target", ggml_ops.targets())
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 10.0, 1e3, 1e30])
def test_silu_holds_from_the_smallest_to_the_largest(
    monkeypatch: pytest.MonkeyPatch, target: str, scale: float
) -> None:
    monkeypatch.setenv("QWEN35_CPU", target)
    x, weight, state = make(50, 64, 4, scale)
    out, _ = ggml_ops.causal_conv1d_silu(x, weight, np.zeros_like(state))
    expected = by_torch(x, weight, np.zeros_like(state))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6 * scale)


def test_a_token_at_a_time_equals_the_whole() -> None:
    x, weight, state = make(20, 48, 4)
    whole, last = ggml_ops.causal_conv1d_silu(x, weight, state)
    for t in range(20):
        out, state = ggml_ops.causal_conv1d_silu(x[t : t + 1], weight, state)
        np.testing.assert_array_equal(out[0], whole[t])
    np.testing.assert_array_equal(state, last)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((0, 8), np.float32), np.zeros((8, 4), np.float32)), "x: expected shape"),
        ((np.zeros((2, 8)), np.zeros((8, 4), np.float32)), "x: expected float32"),
        ((np.zeros((2, 8), np.float32), np.zeros((7, 4), np.float32)), "weight: expected shape"),
        (
            (np.zeros((2, 8), np.float32), np.zeros((8, 9), np.float32)),
            "weight: .* kernel size of 2 to 8, got 9",
        ),
        (
            (np.zeros((2, 8), np.float32), np.zeros((8, 4), np.float32), np.zeros((8, 4), np.float32)),
            "state: expected shape",
        ),
    ],
)
def test_what_does_not_fit_is_named(arguments: tuple[Array, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ggml_ops.causal_conv1d_silu(*arguments)
