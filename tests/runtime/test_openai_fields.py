"""Fields of OpenAI's API, several answers, streams of raw text, and results of many prompts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs.chat_requests import HELLO
from qwen35_gguf import errors
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.chat.openai_types import Completion

SHORT: dict[str, Any] = {"thinking": False, "max_tokens": 8}


def test_several_answers_are_those_of_the_seeds_that_follow(shared: Qwen35) -> None:
    alone = [shared.chat(HELLO, **SHORT, seed=5 + number) for number in range(3)]
    found = shared.chat(HELLO, **SHORT, seed=5, n=3)
    assert [choice.message for choice in found.choices] == [each.choices[0].message for each in alone]
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert found.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert found.usage.completion_tokens == sum(each.usage.completion_tokens for each in alone)
    texts = ["", "", ""]
    chunks = list(shared.chat(HELLO, **SHORT, seed=5, n=3, stream=True))
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [each.text for each in alone]
    assert sum(choice.finish_reason is not None for chunk in chunks for choice in chunk.choices) == 3
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_the_first_chunk_has_the_role_and_the_usage_is_where_it_is_wanted(shared: Qwen35) -> None:
    usual = list(shared.chat(HELLO, **SHORT, stream=True))
    assert [chunk.choices[0].delta.role for chunk in usual] == ["assistant"] + [None] * (len(usual) - 1)
    assert usual[-1].usage is not None
    own = list(shared.chat(HELLO, **SHORT, stream=True, stream_options={"include_usage": True}))
    assert own[-1].choices == []
    assert own[-1].usage is not None
    assert all(chunk.usage is None and chunk.choices for chunk in own[:-1])
    none = list(shared.chat(HELLO, **SHORT, stream=True, stream_options={"include_usage": False}))
    assert all(chunk.usage is None for chunk in none)
    json.dumps([chunk.to_dict() for chunk in own])


def test_tokens_can_be_banned_and_preferred(shared: Qwen35) -> None:
    model = shared._loaded.model
    token = model.tokenize("message")[0]
    text = model.piece(token).decode()
    greedy: dict[str, Any] = {"max_tokens": 5, "temperature": 0}
    assert shared.generate("one two", **greedy, logit_bias={token: 100}).text == text * 5
    assert shared.generate("one two", **greedy, logit_bias={str(token): 100}, draft=0).text == text * 5
    assert shared.generate_many(["one two"], **greedy, logit_bias={token: 100})[0].text == text * 5
    first = shared.generate("one two", max_tokens=1, temperature=0).text
    banned = {each: -100 for each in range(model.n_vocab) if model.piece(each).decode(errors="replace") == first}
    assert shared.generate("one two", max_tokens=1, temperature=0, logit_bias=banned).text != first
    with pytest.raises(errors.MessageError, match="logit_bias: 99999999 is not a token"):
        shared.chat(HELLO, logit_bias={99999999: 1})


def test_raw_text_streams_and_has_a_usage(shared: Qwen35) -> None:
    whole = shared.generate("one two", max_tokens=12, temperature=0)
    pieces: list[str] = []
    chunks = list(shared.generate("one two", max_tokens=12, temperature=0, stream=True, on_text=pieces.append))
    assert "".join(chunk.text for chunk in chunks) == "".join(pieces) == whole.text
    assert chunks[-1].finish_reason == whole.finish_reason
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 12
    assert whole.usage.prompt_tokens == shared.count_tokens("one two")


def test_many_prompts_with_errors_and_results_as_they_come(shared: Qwen35) -> None:
    prompts: list[Any] = [
        "one",
        "word " * 3000,
        HELLO,
        5,
        [{"role": "user", "content": [{"type": "image", "image": 1}]}],
    ]
    come: dict[int, Completion] = {}
    found = shared.generate_many(
        prompts, max_tokens=4, temperature=0, thinking=False, return_exceptions=True, on_result=come.__setitem__
    )
    assert isinstance(found[1], errors.ContextError)
    assert [str(each).split(":")[0] for each in (found[1], found[3], found[4])] == [
        "prompts[1]",
        "prompts[3]",
        "prompts[4]",
    ]
    assert come == {0: found[0], 2: found[2]}
    for at, error in ((1, errors.ContextError), (3, errors.MessageError)):
        with pytest.raises(error, match=r"^prompts\[1\]: "):
            shared.generate_many(["one", prompts[at]], max_tokens=4)
    with pytest.raises(errors.BusyError):
        shared.generate_many(["one"], max_tokens=2, on_result=lambda *_: shared.chat(HELLO))
    for wrong in ("Hello", b"Hello", 5, {"role": "user"}, HELLO, None):
        with pytest.raises(errors.MessageError, match="^prompts: "):
            shared.generate_many(wrong)  # type: ignore[call-overload]
    assert shared.generate_many(iter(()), max_tokens=3) == []


def test_many_prompts_stop_and_take_a_form(shared: Qwen35) -> None:
    whole = shared.generate_many(["one two", "three"], max_tokens=30, temperature=0)
    stop = whole[0].text[10:13]
    found = shared.generate_many(["one two", "three"], max_tokens=30, temperature=0, stop=[stop])
    assert found[0].text == whole[0].text[: whole[0].text.index(stop)]
    assert found[0].finish_reason == "stop"
    assert found[0].timings.tokens < 30
    formed = shared.generate_many(
        [HELLO], thinking=False, response_format={"type": "json_schema", "json_schema": {"schema": {"enum": ["a", 5]}}}
    )
    assert json.loads(formed[0].text) in ("a", 5)


def test_objects_are_images(files: list[Path]) -> None:
    from PIL import Image as PilImage

    rgb = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    file = io.BytesIO()
    PilImage.fromarray(rgb).save(file, "PNG")
    with Qwen35(files[0], n_ctx=1024, n_threads=1, draft=0) as model:

        def ask(image: Any) -> str:
            parts = [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]
            return model.chat([{"role": "user", "content": parts}], max_tokens=5, temperature=0, thinking=False).text

        file.seek(0)
        answers = [ask(file), ask(file.getvalue()), ask(PilImage.fromarray(rgb)), ask(rgb / 255.0)]
        assert len(set(answers)) == 1
        assert model._loaded.vision is not None
        assert model._loaded.vision.encoded == 1
        with pytest.raises(errors.MediaError, match=r"messages\[0\].content\[0\]: int is not a path"):
            ask(5)


def test_logprobs_are_the_same_over_drafts(echoing: Path) -> None:
    found: list[tuple[str, list[float], list[int]]] = []
    with Qwen35(echoing, n_ctx=512, n_threads=1, draft=3) as model:
        for draft in (0, 3):
            answer = model.chat(HELLO, **SHORT, temperature=0, draft=draft, logprobs=True, top_logprobs=2)
            logprobs = answer.choices[0].logprobs
            assert logprobs is not None
            values = [
                value for one in logprobs.content for value in (one.logprob, *(o.logprob for o in one.top_logprobs))
            ]
            found.append((answer.text, values, [one.bytes for one in logprobs.content]))  # type: ignore[misc]
            assert bool(answer.timings.accepted) == bool(draft)
    assert found[0][0] == found[1][0]
    assert found[0][2] == found[1][2]
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)
