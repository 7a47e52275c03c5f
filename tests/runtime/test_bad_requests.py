"""Malformed requests and options of `Qwen35` are refused in one line, and the model keeps working."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inputs.chat_requests import HELLO, TOOL
from qwen35_gguf import errors
from qwen35_gguf.runtime import Qwen35


@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        ([], errors.MessageError, "messages: is not a list"),
        ("Hello", errors.MessageError, "messages: is not a list"),
        ([3], errors.MessageError, r"messages\[0\]: is not an object"),
        ([{"role": "robot", "content": "x"}], errors.MessageError, "the role 'robot' is unknown"),
        ([{"role": "user", "content": 3}], errors.MessageError, "neither text nor a list"),
        ([{"role": "user", "content": [{"type": "smell"}]}], errors.MessageError, "is not a part"),
        ([*HELLO, {"role": "tool", "tool_call_id": "1", "content": "x"}], errors.ToolError, "unknown call '1'"),
        ([{"role": "user", "content": "word " * 3000}], errors.ContextError, "do not fit into a context of 2,048"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
            errors.MediaError,
            "data:image/png",
        ),
    ],
)
def test_bad_messages(shared: Qwen35, messages: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        shared.chat(messages)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"temperature": -1}, errors.MessageError, "temperature: -1 is not a number from 0.0"),
        ({"temprature": 1}, errors.MessageError, "temprature: not an option"),
        ({"max_tokens": 0}, errors.MessageError, "max_tokens: 0 is not a whole number from 1"),
        ({"thinking_budget": True}, errors.MessageError, "thinking_budget: True is not"),
        ({"stop": [""]}, errors.MessageError, "stop: "),
        ({"seed": -1}, errors.MessageError, "seed: -1"),
        ({"draft": 4}, errors.MessageError, "draft: 4 is not 0 to 2"),
        ({"tools": [{"name": "a b"}]}, errors.ToolError, "a b"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, errors.ToolError, "tool_choice: perhaps"),
        ({"tool_choice": "required"}, errors.ToolError, "tool_choice: required"),
        ({"grammar": "root ::= ("}, errors.GrammarError, "grammar: line 1 needs"),
        ({"grammar": "x", "response_format": {"type": "json_object"}}, errors.GrammarError, "give one of them"),
        ({"response_format": {"type": "xml"}}, errors.GrammarError, "'xml' is not text"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
            errors.GrammarError,
            "JSON schema",
        ),
    ],
)
def test_bad_options(shared: Qwen35, options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        shared.chat(HELLO, **options)  # type: ignore[call-overload]
    assert "\n" not in str(caught.value)
    assert shared.chat(HELLO, thinking=False, max_tokens=1).timings.tokens == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_ctx": 0}, errors.MessageError, "n_ctx: 0 is not"),
        ({"kv_type": "f8"}, errors.MessageError, "kv_type: 'f8' is not one of"),
        ({"draft": 5}, errors.MessageError, "draft: 5 is not"),
        ({"n_ctx": 1 << 24}, errors.Qwen35Error, "16,777,216"),
        ({"mmproj": "absent.gguf"}, errors.VisionError, "absent.gguf"),
    ],
)
def test_bad_loading(files: list[Path], options: dict[str, object], error: type[Exception], words: str) -> None:
    rgb = np.zeros((64, 64, 3), dtype=np.uint8)
    with pytest.raises(error, match=words), Qwen35(files[0], **options) as model:  # type: ignore[arg-type]
        model.chat([{"role": "user", "content": [{"type": "image", "image": rgb}]}])


def test_without_a_vision_encoder_an_image_is_refused_and_text_is_not(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "alone.gguf").symlink_to(files[0])
    rgb = np.zeros((64, 64, 3), dtype=np.uint8)
    with Qwen35(tmp_path / "alone.gguf", n_ctx=512, n_threads=1) as model:
        with pytest.raises(errors.VisionError, match=r"no vision encoder mmproj-\*.gguf beside it"):
            model.chat([{"role": "user", "content": [{"type": "image", "image": rgb}]}])
        assert model.chat(HELLO, thinking=False, max_tokens=1).timings.tokens == 1
