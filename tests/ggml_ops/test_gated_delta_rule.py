"""The gated delta rule against transformers' two implementations in float64, and against its own definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oracles.delta_rule import transformers_chunked, transformers_recurrent
from qwen35_gguf import ggml_ops

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-5
LENGTHS = [1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 31, 64, 65, 127, 128, 129, 151, 300]


@pytest.fixture(params=ggml_ops.targets())
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_CPU", request.param)


def make(
    tokens: int, key_heads: int, heads: int, size: int, *, decay: str = "mixed", beta: str = "mixed", seed: int = 0
) -> dict[str, Array]:
    random = np.random.default_rng(seed)

    def normalized(shape: tuple[int, ...]) -> Array:
        x = random.standard_normal(shape)
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    g = {
        "mixed": -np.exp(2 * random.standard_normal((tokens, heads)) - 2),
        "none": np.zeros((tokens, heads)),
        "weak": -1e-4 * random.random((tokens, heads)),
        "strong": -50 * random.random((tokens, heads)),
        "all gone": np.full((tokens, heads), -200.0),
    }[decay]
    b = {
        "mixed": random.random((tokens, heads)),
        "zero": np.zeros((tokens, heads)),
        "one": np.ones((tokens, heads)),
    }[beta]
    return {
        "q": normalized((tokens, key_heads, size)),
        "k": normalized((tokens, key_heads, size)),
        "v": random.standard_normal((tokens, heads, size)).astype(np.float32),
        "g": g.astype(np.float32),
        "beta": b.astype(np.float32),
        "state": random.standard_normal((heads, size, size)).astype(np.float32),
    }


def assert_close(ours: Array, reference: Array) -> None:
    assert np.isfinite(ours).all()
    assert np.abs(ours - reference).max() <= TOLERANCE * max(np.abs(reference).max(), 1e-30)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_equals_transformers(tokens: int, ratio: int) -> None:
    case = make(tokens, 2, 2 * ratio, 128, seed=tokens)
    out, state = ggml_ops.gated_delta_rule(**case)
    for reference in (transformers_recurrent, transformers_chunked):
        expected_out, expected_state = reference(**case)
        assert_close(out, expected_out)
        assert_close(state, expected_state)


@pytest.mark.parametrize("ratio", [1, 3])
def test_the_reference_equals_transformers(ratio: int) -> None:
    case = make(40, 2, 2 * ratio, 64)
    out, state = ggml_ops.reference.gated_delta_rule(**case)
    expected_out, expected_state = transformers_recurrent(**case)
    np.testing.assert_allclose(out, expected_out, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(state, expected_state, rtol=1e-9, atol=1e-12)
    case.pop("state")
    zeros = np.zeros_like(state, np.float32)
    np.testing.assert_array_equal(
        ggml_ops.reference.gated_delta_rule(**case)[0], ggml_ops.reference.gated_delta_rule(**case, state=zeros)[0]
    )


@pytest.mark.usefixtures("target")
@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128])
def test_equals_transformers_at_every_length(size: int) -> None:
    for tokens in range(1, 301):
        case = make(tokens, 1, 2, size, seed=tokens)
        out, state = ggml_ops.gated_delta_rule(**case)
        expected_out, expected_state = transformers_recurrent(**case)
        assert_close(out, expected_out)
        assert_close(state, expected_state)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("decay", ["mixed", "weak", "none"])
def test_does_not_drift_over_4096_tokens(decay: str) -> None:
    case = make(4096, 1, 1, 128, decay=decay)
    out, state = ggml_ops.gated_delta_rule(**case)
    expected_out, expected_state = transformers_chunked(**case)
    assert_close(out, expected_out)
    assert_close(state, expected_state)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("decay", ["mixed", "none", "weak", "strong", "all gone"])
@pytest.mark.parametrize("beta", ["mixed", "zero", "one"])
@pytest.mark.parametrize("tokens", [1, 6, 70])
def test_extremes_of_decay_and_beta(decay: str, beta: str, tokens: int) -> None:
    case = make(tokens, 2, 4, 64, decay=decay, beta=beta)
    out, state = ggml_ops.gated_delta_rule(**case)
    expected_out, expected_state = transformers_recurrent(**case)
    assert_close(out, expected_out)
    assert_close(state, expected_state)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("size", [1, 3, 16, 37, 48, 64, 80, 100, 128, 256])
@pytest.mark.parametrize("tokens", [2, 50])
def test_heads_of_any_size(size: int, tokens: int) -> None:
    case = make(tokens, 1, 3, size)
    out, state = ggml_ops.gated_delta_rule(**case)
    expected_out, expected_state = ggml_ops.reference.gated_delta_rule(**case)
    assert_close(out, expected_out)
    assert_close(state, expected_state)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("tokens", [1, 9, 40, 200])
@pytest.mark.parametrize("size", [64, 128])
def test_a_decay_for_each_key_column(tokens: int, size: int) -> None:
    case = make(tokens, 2, 4, size)
    case["g"] = -np.exp(2 * np.random.default_rng(1).standard_normal((tokens, 4, size)) - 2).astype(np.float32)
    out, state = ggml_ops.gated_delta_rule(**case)
    expected_out, expected_state = ggml_ops.reference.gated_delta_rule(**case)
    assert_close(out, expected_out)
    assert_close(state, expected_state)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("tokens", [1, 3, 5, 20, 47])
@pytest.mark.parametrize("snapshots", [2, 4, 9])
def test_snapshots_are_the_last_states_the_newest_first(tokens: int, snapshots: int) -> None:
    case = make(tokens, 2, 2, 64)
    out, states = ggml_ops.gated_delta_rule(**case, snapshots=snapshots)
    expected_out, expected_states = ggml_ops.reference.gated_delta_rule(**case, snapshots=snapshots)
    assert_close(out, expected_out)
    for age in range(snapshots):
        if age < tokens:
            assert_close(states[age], expected_states[age])
        else:
            assert not states[age].any()


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("split", [1, 2, 11, 12, 13, 50, 99])
def test_two_parts_equal_the_whole(split: int) -> None:
    case = make(100, 2, 4, 128)
    state = case.pop("state")
    whole_out, whole_state = ggml_ops.gated_delta_rule(**case, state=state)
    first = {name: array[:split] for name, array in case.items()}
    second = {name: array[split:] for name, array in case.items()}
    first_out, middle = ggml_ops.gated_delta_rule(**first, state=state)
    second_out, last = ggml_ops.gated_delta_rule(**second, state=middle)
    assert_close(np.concatenate([first_out, second_out]), whole_out)
    assert_close(last, whole_state)


@pytest.mark.parametrize("threads", [1, 2, 3, 16, 0])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    case = make(700, 1, 3, 128)  # work enough for sixteen
    expected = ggml_ops.gated_delta_rule(**case, threads=1)
    for ours, reference in zip(ggml_ops.gated_delta_rule(**case, threads=threads), expected, strict=True):
        np.testing.assert_array_equal(ours, reference)


def test_no_state_is_a_state_of_zeros_and_arguments_are_left_alone() -> None:
    case = make(20, 1, 2, 64)
    copies = {name: array.copy() for name, array in case.items()}
    out, _ = ggml_ops.gated_delta_rule(**case)
    for name, array in case.items():
        np.testing.assert_array_equal(array, copies[name])
    zeros = np.zeros_like(case.pop("state"))
    with_zeros, _ = ggml_ops.gated_delta_rule(**case, state=zeros)
    without, _ = ggml_ops.gated_delta_rule(**case)
    np.testing.assert_array_equal(with_zeros, without)
    assert not np.array_equal(out, without)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("q", lambda a: a[:, :, :-1].copy(), r"q: expected shape \(5, 2, 64\), got \(5, 2, 63\)"),
        ("k", lambda a: a[:4].copy(), "k: expected shape"),
        (
            "k",
            lambda a: np.concatenate([a, a[:, :1]], axis=1),
            "k: .*divides the 4 V heads, got 3",
        ),
        ("v", lambda a: a.astype(np.float64), "v: expected float32, got float64"),
        ("v", lambda a: a[:0], r"v: expected shape \(tokens, V heads, D\), got \(0, 4, 64\)"),
        ("v", lambda a: a.tolist(), "v: expected a numpy array"),
        ("v", lambda a: a[::-1], "v: expected a C-contiguous array"),
        ("g", lambda a: a[:, :2].copy(), "g: expected shape"),
        ("g", lambda a: a[:, :, None].copy(), "g: expected shape"),
        ("beta", lambda a: a.T, "beta: expected shape"),
        ("state", lambda a: a[:, :0].copy(), "state: expected shape"),
        ("state", lambda a: a.transpose(0, 2, 1), "state: expected a C-contiguous array"),
    ],
)
def test_what_does_not_fit_is_named(name: str, change: Any, message: str) -> None:
    case = make(5, 2, 4, 64)
    case[name] = change(case[name])
    with pytest.raises(ValueError, match=message):
        ggml_ops.gated_delta_rule(**case)


def test_numbers_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="snapshots: expected 1 or more"):
        ggml_ops.gated_delta_rule(**make(5, 2, 4, 64), snapshots=0)
    with pytest.raises(ValueError, match="threads: expected 0 or more"):
        ggml_ops.gated_delta_rule(**make(5, 2, 4, 64), threads=-1)
