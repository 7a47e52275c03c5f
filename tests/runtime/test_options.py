"""Options are checked when they are made, and calls accept the keywords that their types name."""

from __future__ import annotations

import dataclasses

import pytest

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.options import RAW_OPTIONS, GenerateOptions, LoadOptions
from qwen35_gguf.runtime.options import generate as options
from qwen35_gguf.runtime.options import keywords as option_keywords

pytestmark = pytest.mark.unit


def test_keywords_are_the_fields() -> None:
    load = {field.name for field in dataclasses.fields(LoadOptions)} - {"path"}
    assert set(option_keywords.LoadKeywords.__annotations__) == load
    fields = {field.name for field in dataclasses.fields(GenerateOptions)}
    openai = {"max_completion_tokens", "stream_options", "chat_template_kwargs", *options.IGNORED}
    assert set(option_keywords.GenerateKeywords.__annotations__) == fields | openai
    assert set(RAW_OPTIONS) | set(options.MANY_OPTIONS) <= set(option_keywords.GenerateKeywords.__annotations__)


def test_ready_options_are_taken_as_they_are() -> None:
    ready = GenerateOptions(max_tokens=3, seed=1)
    assert GenerateOptions.of(ready, {}) is ready
    assert GenerateOptions.of(ready, {}, RAW_OPTIONS) is ready
    with pytest.raises(MessageError, match="thinking: not an option; use max_tokens, stop"):
        GenerateOptions.of(GenerateOptions(thinking=True), {}, RAW_OPTIONS)
    with pytest.raises(TypeError, match="not both"):
        GenerateOptions.of(ready, {"seed": 2})
    load = LoadOptions.of("model.gguf", {"devices": ["CUDA0"], "state_dir": "states"})
    assert LoadOptions.of(load, {}) is load
    assert (load.devices, str(load.state_dir), load.image_pixels) == (("CUDA0",), "states", 4_194_304)
    with pytest.raises(TypeError, match="not both"):
        LoadOptions.of(load, {"n_ctx": 5})


def test_stop_may_be_one_text_or_several() -> None:
    assert GenerateOptions.of(None, {"stop": "a"}).stop == ("a",)
    assert GenerateOptions.of(None, {"stop": ["a", "b"]}).stop == ("a", "b")
    assert GenerateOptions.of(None, {"stop": None}).stop == ()
    for value in ("", [""], [3], 5):
        with pytest.raises(MessageError, match="stop: is not a text"):
            GenerateOptions.of(None, {"stop": value})


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"n_ctx": True}, "n_ctx: True is not a whole number from 1"),
        ({"n_batch": 0}, "n_batch: 0 is not"),
        ({"n_gpu_layers": -2}, 'n_gpu_layers: -2 is not "auto" or a whole number from -1'),
        ({"n_gpu_layers": True}, "n_gpu_layers: True"),
        ({"draft": 5}, "draft: 5 is not"),
        ({"draft": True}, "draft: True is not"),
        ({"kv_type": "f8"}, "kv_type: 'f8' is not one of"),
    ],
)
def test_bad_loading_options(keywords: dict[str, object], words: str) -> None:
    with pytest.raises(MessageError, match=words):
        LoadOptions.of("model.gguf", keywords)
