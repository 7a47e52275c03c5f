"""Attention against its definition in float64, on every target that this processor has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen35_gguf import ggml_ops
from qwen35_gguf.ggml_ops import _native, reference
from qwen35_gguf.ggml_ops.attention_op import KVType, cache_bytes

Array = np.ndarray[Any, Any]

TYPES: tuple[KVType, ...] = ("f32", "f16", "bf16", "q8_0", "q4_0")
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
SIZES = [64, 72, 80, 128, 256]
LENGTHS = [*range(1, 10), 63, 64, 65, 511, 513]
TARGETS = _native.attention_targets()

# Of the largest value: for floats, and for integers of 13 to 16 bits, which have the precision of FP16.
TOLERANCE = {"floats": 2e-5, "pairs": 1e-3}

pytestmark = pytest.mark.unit


def stored(x: Array, kv_type: KVType) -> Array:
    """Return keys or values as a cache of a type holds them."""
    packed = cache_bytes(x, kv_type)
    if kv_type in DTYPES:
        return packed.view(DTYPES[kv_type]).astype(np.float32)
    return dequantize(packed.reshape(-1, packed.shape[2]), GGMLQuantizationType[kv_type.upper()]).reshape(x.shape)


def allowed(rows: int, types: tuple[KVType, KVType], size: int) -> float:
    """Return the error that is allowed: caches in F32, and less than 8 rows unless both are quantized, are floats."""
    quantized = set(types) <= {"q8_0", "q4_0"}
    return TOLERANCE["floats" if (rows < 8 and size % 32 == 0 and not quantized) or "f32" in types else "pairs"]


def make(tokens: int, positions: int, heads: int, group: int, size: int, seed: int) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    q = random.standard_normal((tokens, heads * group, size)).astype(np.float32)
    k, v = random.standard_normal((2, positions, heads, size)).astype(np.float32)
    return q, k, v


def causal(tokens: int, positions: int) -> Array:
    """Let the last token see everything, and each other one position less than the token after it."""
    position = np.arange(positions)[None, :] + tokens - positions
    return np.where(position > np.arange(tokens)[:, None], -np.inf, 0).astype(np.float16)


def make_mask(kind: str, tokens: int, positions: int, seed: int) -> Array | None:
    random = np.random.default_rng(seed)
    if kind == "none":
        return None
    mask = causal(tokens, positions)
    if kind == "holes":
        mask[random.random(mask.shape) < 0.4] = -np.inf
    if kind == "window":
        mask[:, : positions // 2] = -np.inf
    if kind == "hidden rows":
        mask[random.random(tokens) < 0.5] = -np.inf
    if kind == "bias":
        mask = mask + random.standard_normal(mask.shape).astype(np.float16)
    return mask


def check(
    q: Array, k: Array, v: Array, mask: Array | None, types: tuple[KVType, KVType], threads: int = 2, **options: Any
) -> None:
    found = ggml_ops.attention(q, k, v, mask, kv_type=types, threads=threads, **options)
    held = stored(k, types[0]), stored(v, types[1])
    expected = reference.attention(q, *held, mask, **options)
    rows = len(q) * q.shape[1] // k.shape[1]
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= allowed(rows, types, q.shape[2]) * np.abs(held[1]).max()


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN35_CPU", request.param)


@pytest.mark.parametrize("kv_type", TYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("target")
def test_every_type_and_size(kv_type: KVType, size: int) -> None:
    if size % 32 and kv_type in ("q8_0", "q4_0"):
        pytest.skip("blocks of 32 do not divide the size")
    for tokens, positions in ((1, 70), (7, 70), (40, 150)):
        q, k, v = make(tokens, positions, 2, 4, size, tokens)
        check(q, k, v, causal(tokens, positions), (kv_type, kv_type))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.usefixtures("target")
def test_odd_numbers_of_positions_and_of_tokens(length: int) -> None:
    q, k, v = make(3, length, 1, 4, 64, length)
    check(q, k, v, None, ("f16", "f16"))
    q, k, v = make(min(length, 65), length, 1, 4, 64, length)
    check(q, k, v, causal(len(q), length), ("f16", "q8_0"))


@pytest.mark.parametrize("tokens", [1, 5, 34])
@pytest.mark.usefixtures("target")
def test_a_long_cache(tokens: int) -> None:
    q, k, v = make(tokens, 4097, 1, 4, 64, tokens)
    check(q, k, v, causal(tokens, 4097), ("f16", "f16"))


@pytest.mark.parametrize("group", range(1, 9))
@pytest.mark.usefixtures("target")
def test_every_size_of_a_group(group: int) -> None:
    for tokens in (1, 2, 9):
        q, k, v = make(tokens, 100, 2, group, 64, group)
        check(q, k, v, causal(tokens, 100), ("f16", "f16"))


@settings(deadline=None, max_examples=150)
@example(tokens=2, positions=3, heads=1, group=100, size=64, kinds=("f16", "f16"), mask="holes", extra="sinks", seed=1)
@given(
    tokens=st.sampled_from([1, 2, 3, 8, 13, 33]),
    positions=st.integers(1, 300),
    heads=st.integers(1, 3),
    group=st.integers(1, 8),
    size=st.sampled_from([32, 64, 96, 128]),
    kinds=st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)),
    mask=st.sampled_from(["none", "causal", "holes", "window", "hidden rows", "bias"]),
    extra=st.sampled_from(["", "sinks", "softcap", "slopes"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_and_mask(
    tokens: int,
    positions: int,
    heads: int,
    group: int,
    size: int,
    kinds: tuple[KVType, KVType],
    mask: str,
    extra: str,
    seed: int,
) -> None:
    q, k, v = make(tokens, positions, heads, group, size, seed)
    random = np.random.default_rng(seed)
    options: dict[str, Any] = {
        "": {},
        "sinks": {"sinks": random.standard_normal(heads * group).astype(np.float32)},
        "softcap": {"softcap": 2.0},
        "slopes": {"slopes": random.random(heads * group).astype(np.float32)},
    }[extra]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWEN35_CPU", TARGETS[seed % len(TARGETS)])
        check(q, k, v, make_mask(mask, tokens, positions, seed), kinds, 1 + seed % 3, **options)


@pytest.mark.usefixtures("target")
def test_scores_of_any_magnitude() -> None:
    for magnitude in (1e-3, 30.0):
        for tokens in (1, 20):
            q, k, v = make(tokens, 300, 1, 4, 64, 3)
            check(q * np.float32(magnitude), k, v * np.float32(magnitude), None, ("f32", "f32"))
            if magnitude < 1:
                check(q * np.float32(magnitude), k, v * np.float32(magnitude), None, ("f16", "f16"))


@pytest.mark.parametrize("kv_type", ["f16", "bf16", "q8_0", "q4_0"])
@pytest.mark.usefixtures("target")
def test_one_position_takes_it_all(kv_type: KVType) -> None:
    """Weights of one and of nearly zero, and values of very different magnitudes."""
    for tokens in (1, 3, 20):
        q, k, v = make(tokens, 300, 1, 4, 64, 4)
        k[17] = 8 * q[0, 0]
        v[100:200] *= 1e-3
        check(q, k, v, None, (kv_type, kv_type))


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.usefixtures("target")
def test_elements_of_very_different_magnitudes(kv_type: KVType) -> None:
    """Integers of a row have one scale: what its largest elements leave over is enough for the others."""
    for tokens in (1, 3, 20):
        q, k, v = make(tokens, 300, 1, 4, 128, 8)
        k[:, :, :3] *= 30
        q[:, :, :3] /= 30
        v[:, :, 5] *= 30
        check(q, k, v, causal(tokens, 300), (kv_type, kv_type))
        check(np.abs(q) * 20, np.abs(k), v, causal(tokens, 300), (kv_type, kv_type), scale=0.01)


@pytest.mark.usefixtures("target")
def test_the_number_of_threads_changes_only_the_rounding() -> None:
    for tokens in (1, 3, 70):
        q, k, v = make(tokens, 1500, 2, 4, 64, 5)
        mask = causal(tokens, 1500)
        results = [ggml_ops.attention(q, k, v, mask, threads=threads) for threads in (1, 2, 3, 8)]
        for threads, first in zip((1, 2, 3, 8), results, strict=True):
            for _ in range(3):
                np.testing.assert_array_equal(ggml_ops.attention(q, k, v, mask, threads=threads), first)
            assert np.abs(first - results[0]).max() <= 1e-3


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.usefixtures("target")
def test_what_is_hidden_does_not_matter(kv_type: KVType) -> None:
    for tokens in (1, 3, 20):
        q, k, v = make(tokens, 200, 1, 4, 64, 6)
        mask = causal(tokens, 200)
        mask[:, 50:120] = -np.inf
        expected = ggml_ops.attention(q, k, v, mask, kv_type=kv_type)
        k[50:120], v[50:120] = 6e4, -6e4
        assert np.abs(ggml_ops.attention(q, k, v, mask, kv_type=kv_type) - expected).max() <= 1e-5


@pytest.mark.usefixtures("target")
def test_what_is_not_a_number_is_not_lost() -> None:
    for tokens in (1, 3, 20):
        for in_keys in (True, False):
            q, k, v = make(tokens, 200, 1, 4, 64, 7)
            (k if in_keys else v)[70, 0, 3] = np.nan
            found = ggml_ops.attention(q, k, v)
            assert np.isnan(found[..., 3]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": np.zeros((5, 2, 32), np.float32)}, r"k: expected shape \(positions, cache heads, 64\)"),
        (
            {"k": np.zeros((5, 3, 64), np.float32), "v": np.zeros((5, 3, 64), np.float32)},
            "divides the 8 query heads, got 3",
        ),
        ({"v": np.zeros((4, 2, 64), np.float32)}, r"v: expected shape \(5, 2, DV\)"),
        ({"mask": np.zeros((3, 5), np.float32)}, r"mask: expected a float16 array \(3, 5\)"),
        ({"kv_type": "q5_0"}, "kv_type: expected f32, f16, bf16, q8_0 or q4_0, got q5_0"),
        ({"sinks": np.zeros(3, np.float32)}, r"sinks: expected shape \(8\)"),
        ({"threads": -1}, "threads: expected 0 or more"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    q, k, v = make(3, 5, 2, 4, 64, 0)
    with pytest.raises(ValueError, match=message):
        ggml_ops.attention(**({"q": q, "k": k, "v": v} | change))


def test_a_size_that_blocks_do_not_divide_is_refused() -> None:
    q, k, v = make(3, 5, 2, 4, 72, 0)
    with pytest.raises(ValueError, match="multiple of 32 for q8_0, got 72"):
        ggml_ops.attention(q, k, v, kv_type="q8_0")
