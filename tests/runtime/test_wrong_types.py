"""Whatever is given for an option, it is taken as exactly what it means, or refused by its name in one line."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.field_checks import SHOWN
from qwen35_gguf.runtime.llama.adapters.loaded import AdapterSpec
from qwen35_gguf.runtime.media.image import MediaLimits
from qwen35_gguf.runtime.media.video import VideoLimits
from qwen35_gguf.runtime.options import GenerateOptions, LoadOptions

pytestmark = pytest.mark.unit


class Hostile:
    """An object that answers nothing."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __index__(self) -> int:
        raise ValueError("no")

    def __float__(self) -> float:
        raise OverflowError("no")


SCALARS: list[Any] = [
    True, False, 0, 1, -1, 3, 10**30, -(10**30), 2**31, 0.5, 1.0, -0.0, 1e-310, 1e308, math.inf, -math.inf, math.nan,
    "", "2", "auto", "32k", "2GB", "a\0b", "\ud800", "line\nline", b"bytes", b"", bytearray(b"a"), 1j, Path("a"),
    Path(), (), [], {}, set(), [1], ["a"], ("a", ""), {"a": 1}, {1: 2.0}, {"7": -3}, {"x": 1}, {1: "2"}, range(3),
    object(), Hostile, Hostile(), print, np.int64(3), np.uint8(2), np.int8(-1), np.float32(0.5), np.float64("nan"),
    np.bool_(True), np.str_("f16"), np.array(3), np.array([3]), np.array([]), np.zeros((2, 2)),
    np.datetime64("2026-01-01"), "x" * 5000,
    MediaLimits(), VideoLimits(), GenerateOptions(),
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(SCALARS), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4), st.booleans()
)
FREE = ("response_format", "tools", "tool_choice")  # checked where they are used
CLASSES = [(LoadOptions, {"path": "m.gguf"}), (GenerateOptions, {}), (MediaLimits, {}), (VideoLimits, {})]
FIELDS = [(kind, base, field.name) for kind, base in CLASSES for field in dataclasses.fields(kind)]


def check(kind: Any, base: dict[str, Any], name: str, value: Any) -> None:
    try:
        made = kind(**{**base, name: value})
    except MessageError as error:
        message = str(error)
        assert message.startswith(name)
        assert "\n" not in message
        assert len(message) < SHOWN + 140
        return
    found = getattr(made, name)
    if name in FREE:
        return
    exact = (int, float, bool, str, tuple, type(None), MediaLimits, VideoLimits)
    assert type(found) in exact or isinstance(found, Path | dict)
    if isinstance(found, float):
        assert math.isfinite(found)
    if type(found) in (int, float):
        assert not isinstance(value, bool)
        assert isinstance(value, str) or found == value
    if type(found) is tuple:
        kinds = {type(each) for each in found}
        assert kinds <= {str} or kinds in ({AdapterSpec}, {re.Pattern}) or all(isinstance(each, Path) for each in found)
        assert all(found)
    hash((type(found), name))
    assert kind(**{**base, name: found}) == made  # the exact value is accepted as it is


@pytest.mark.parametrize(("kind", "base", "name"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, _, name in FIELDS])
def test_every_value_for_every_option(kind: Any, base: dict[str, Any], name: str) -> None:
    for value in SCALARS:
        check(kind, base, name, value)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(FIELDS), VALUES)
def test_random_values_for_options(field: tuple[Any, dict[str, Any], str], value: Any) -> None:
    check(*field, value)


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (LoadOptions, "n_ctx", "1M", 1 << 20),
        (LoadOptions, "n_ctx", np.int32(4096), 4096),
        (LoadOptions, "cache_bytes", "2GB", 2 * 10**9),
        (LoadOptions, "rpc", "host:1", ("host:1",)),
        (LoadOptions, "devices", ["CUDA0"], ("CUDA0",)),
        (LoadOptions, "state_dir", "states", Path("states")),
        (LoadOptions, "draft", np.int64(2), 2),
        (LoadOptions, "profile", np.bool_(False), False),
        (GenerateOptions, "temperature", np.float32(0.5), 0.5),
        (GenerateOptions, "temperature", 1, 1.0),
        (GenerateOptions, "top_k", np.uint8(3), 3),
        (GenerateOptions, "stop", "a", ("a",)),
        (GenerateOptions, "logit_bias", {"7": 3, 8: -1.5}, {7: 3.0, 8: -1.5}),
        (MediaLimits, "roots", "pictures", (Path("pictures"),)),
    ],
)
def test_what_is_meant_is_taken_exactly(kind: Any, name: str, value: object, expected: object) -> None:
    found = getattr(kind(**({"path": "m"} if kind is LoadOptions else {}), **{name: value}), name)
    assert found == expected
    assert type(found) is type(expected) or isinstance(found, Path | dict)


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        (LoadOptions, "n_threads", "2", "n_threads: '2' is not a whole number from 1 to 512"),
        (LoadOptions, "n_threads", 1000, "n_threads: 1000 is not a whole number from 1 to 512"),
        (LoadOptions, "cache_bytes", "x", "cache_bytes: 'x' is not a whole number of bytes from 0, or a text such as"),
        (LoadOptions, "path", 5, "path: 5 is not a path"),
        (LoadOptions, "draft", "2", "draft: '2' is not \"auto\" or a whole number from 0 to 4"),
        (LoadOptions, "kv_type", 8, "kv_type: 8 is not one of f32"),
        (GenerateOptions, "stop", 5, "stop: is not a text or a list of texts"),
        (GenerateOptions, "grammar", 5, "grammar: 5 is not a text"),
        (GenerateOptions, "temperature", math.nan, "temperature: nan is not a number from 0.0 to 100.0"),
        (GenerateOptions, "top_p", 1.5, "top_p: 1.5 is not a number from 0.0 to 1.0"),
        (GenerateOptions, "max_tokens", 1.0, "max_tokens: 1.0 is not a whole number from 1"),
        (GenerateOptions, "seed", True, "seed: True is not a whole number from 0"),
        (GenerateOptions, "thinking", "no", "thinking: 'no' is not True or False"),
        (GenerateOptions, "timeout", 0, "timeout: 0 is not a number above 0"),
        (GenerateOptions, "logit_bias", {"a": 1}, "logit_bias: token: 'a' is not a whole number from 0"),
        (GenerateOptions, "logit_bias", {1: 1000}, r"logit_bias\[1\]: 1000 is not a number from -100.0 to 100.0"),
    ],
)
def test_what_is_wrong_is_named(kind: Any, name: str, value: object, words: str) -> None:
    with pytest.raises(MessageError, match=f"^{words}"):
        kind(**({"path": "m"} if kind is LoadOptions else {}) | {name: value})


def test_names_of_openai_are_understood_and_unknown_ones_refused() -> None:
    of = GenerateOptions.of
    assert of(None, {"max_completion_tokens": 5}).max_tokens == 5
    assert of(None, {"max_completion_tokens": 5, "max_tokens": 5}).max_tokens == 5
    assert of(None, {"max_completion_tokens": None, "max_tokens": 4}).max_tokens == 4
    assert of(None, {"stream_options": {"include_usage": True}}).include_usage is True
    assert of(None, {"stream_options": None}).include_usage is None
    assert of(None, {"user": "me", "metadata": {"a": "b"}, "store": False, "n": None}) == GenerateOptions()
    for keywords, words in (
        ({"max_completion_tokens": 5, "max_tokens": 4}, "max_tokens, max_completion_tokens: are two names"),
        ({"stream_options": 5}, "stream_options: 5 is not an object"),
        ({"stream_options": {"include": 5}}, "stream_options: include is not an option"),
        ({"best_of": 5}, "best_of: not an option; use max_tokens"),
        ({"n": 0}, "n: 0 is not a whole number from 1 to 128"),
    ):
        with pytest.raises(MessageError, match=words):
            of(None, keywords)
    with pytest.raises(MessageError, match="options: 5 is not a GenerateOptions"):
        of(5, {})  # type: ignore[arg-type]
