"""`Qwen35`: messages in, OpenAI-style objects out; threads, mistakes, and nothing left behind."""

from __future__ import annotations

import ctypes
import gc
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from inputs.chat_requests import HELLO, TOOL
from inputs.clips import clip
from qwen35_gguf import errors
from qwen35_gguf.errors import MemoryLimitError
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.chat.openai_types import join_calls
from qwen35_gguf.runtime.chat.thinking import OUT_OF_BUDGET
from qwen35_gguf.runtime.engine.sampling import Sampler
from qwen35_gguf.runtime.media.image import Image
from qwen35_gguf.runtime.media.video import VideoLimits
from qwen35_gguf.runtime.planning import fitting

# ---- answers -----------------------------------------------------------------------------------------------------


def test_a_result_has_the_form_of_openai(shared: Qwen35) -> None:
    result = shared.chat(HELLO, thinking=False, max_tokens=5, temperature=0).to_dict()
    assert result["object"] == "chat.completion"
    (choice,) = result["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    usage = result["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    json.dumps(result)


@pytest.mark.parametrize("thinking", [False, True])
def test_a_stream_gives_the_same_in_pieces(shared: Qwen35, thinking: bool) -> None:
    options = {"thinking": thinking, "thinking_budget": 8, "max_tokens": 60, "seed": 3}
    whole = shared.chat(HELLO, **options)
    chunks = list(shared.chat(HELLO, stream=True, **options))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    message = whole.choices[0].message
    assert "".join(d.content or "" for d in deltas) == message.content
    assert ("".join(d.reasoning_content or "" for d in deltas) or None) == message.reasoning_content
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_turn_reuses_the_turns_before_and_answers_as_a_cold_run(files: list[Path], shared: Qwen35) -> None:
    messages: list[object] = [{"role": "system", "content": "Be kind and short. " * 40}]
    for turn in range(4):
        messages.append({"role": "user", "content": f"Question number {turn}, please."})
        warm = shared.chat(messages, thinking=turn % 2 == 1, max_tokens=30, temperature=0)
        with Qwen35(files[0], n_ctx=2048, n_threads=1, draft=0) as cold:
            expected = cold.chat(messages, thinking=turn % 2 == 1, max_tokens=30, temperature=0)
        assert warm.choices == expected.choices
        if turn:
            assert warm.timings.reused_tokens > 0.8 * warm.timings.prompt_tokens
        messages.append(warm.choices[0].message)


def test_seeds_repeat_and_differ(shared: Qwen35) -> None:
    texts = [shared.chat(HELLO, thinking=False, max_tokens=20, seed=seed).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_text_ends_the_content_before_it(shared: Qwen35) -> None:
    whole = shared.chat(HELLO, thinking=False, max_tokens=30, temperature=0).text
    stop = whole[len(whole) // 2 :][:3]
    cut = shared.chat(HELLO, thinking=False, max_tokens=30, temperature=0, stop=[stop, "not there"])
    assert cut.text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_raw_text_is_continued(shared: Qwen35) -> None:
    pieces: list[str] = []
    result = shared.generate("one two", max_tokens=12, temperature=0, on_text=pieces.append)
    assert "".join(pieces) == result.text
    assert result.timings.tokens == 12


# ---- thinking ----------------------------------------------------------------------------------------------------


def test_the_budget_ends_the_thinking(shared: Qwen35) -> None:
    result = shared.chat(HELLO, thinking=True, thinking_budget=6, max_tokens=200, seed=1)
    message = result.choices[0].message
    assert message.reasoning_content is not None
    assert message.reasoning_content.endswith(OUT_OF_BUDGET.strip())
    assert result.usage.completion_tokens_details["reasoning_tokens"] == 6
    assert "think>" not in (message.content or "")
    assert result.usage.completion_tokens > 30  # it continued with the answer


def test_without_thinking_there_is_no_reasoning(shared: Qwen35) -> None:
    assert shared.chat(HELLO, thinking=False, max_tokens=9).choices[0].message.reasoning_content is None


# ---- structure ---------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ann", "bob"]}, "good": {"type": "boolean"}},
    "required": ["name", "good"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_content_obeys_a_schema(shared: Qwen35, thinking: bool, seed: int) -> None:
    result = shared.chat(
        HELLO,
        thinking=thinking,
        thinking_budget=5,
        seed=seed,
        response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    )
    found = json.loads(result.text)
    assert found["name"] in ("ann", "bob")
    assert isinstance(found["good"], bool)
    assert set(found) == {"name", "good"}
    assert result.choices[0].finish_reason == "stop"


def test_a_grammar_holds_and_drafts_change_nothing(shared: Qwen35) -> None:
    options = {"grammar": 'root ::= ("ab" | "cd" | "e ")+ "."', "seed": 4, "max_tokens": 40, "thinking": False}
    drafted = shared.chat(HELLO, **options)
    assert re.fullmatch(r"(ab|cd|e )*\.?", drafted.text)
    assert drafted.text == shared.chat(HELLO, draft=0, **options).text


def test_a_tool_can_be_required(shared: Qwen35) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    for thinking in (False, True):
        result = shared.chat(
            HELLO, tools=[TOOL], tool_choice=named, thinking=thinking, thinking_budget=4, max_tokens=60, seed=1
        )
        assert not result.text
        assert bool(result.choices[0].message.reasoning_content) is thinking


def test_a_call_becomes_an_object_and_goes_back(shared: Qwen35, monkeypatch: pytest.MonkeyPatch) -> None:
    call_text = "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
    _speak(shared, monkeypatch, f"Let me see.\n\n{call_text}")
    result = shared.chat(HELLO, tools=[TOOL], thinking=False)
    choice = result.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    (call,) = choice.message.tool_calls or ()
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    chunks = shared.chat(HELLO, tools=[TOOL], stream=True, thinking=False)
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    assert [made.function for made in join_calls(pieces)] == [call.function]
    monkeypatch.undo()
    history = [*HELLO, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert shared.chat(history, tools=[TOOL], thinking=False, max_tokens=3).timings.tokens == 3


def _speak(model: Qwen35, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the engine give the tokens of a text instead of sampled ones; everything after it is real."""
    tokens = [*model._loaded.model.tokenize(text), model._loaded.model.tokenize("<|im_end|>")[0]]

    def sample(self: Sampler, *_: object) -> int:
        return next(vars(self).setdefault("spoken", iter(tokens)))  # type: ignore[no-any-return]

    monkeypatch.setattr(Sampler, "sample", sample)


def test_characters_split_over_tokens_arrive_whole(shared: Qwen35, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "🙂 naïve 你好 \N{FAMILY}"
    _speak(shared, monkeypatch, text)
    pieces = [chunk.choices[0].delta.content or "" for chunk in shared.chat(HELLO, stream=True, thinking=False)]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


# ---- images ----------------------------------------------------------------------------------------------------


def test_an_image_is_encoded_once_and_reused(files: list[Path]) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    part = {"type": "image", "image": Image(rgb, "its hash")}
    messages: list[object] = [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]
    with Qwen35(files[0], n_ctx=1024, n_threads=1, draft=2) as model:
        first = model.chat(messages, thinking=False, max_tokens=8, temperature=0)
        messages += [first.choices[0].message, {"role": "user", "content": "And now?"}]
        second = model.chat(messages, thinking=False, max_tokens=8, temperature=0)
        assert model._loaded.vision is not None
        assert model._loaded.vision.encoded == 1
        assert second.timings.reused_tokens >= 2 * 3
    with Qwen35(files[0], n_ctx=1024, n_threads=1, draft=0, cache_bytes=0) as cold:
        assert cold.chat(messages, thinking=False, max_tokens=8, temperature=0).choices == second.choices


def test_a_video_is_seen_and_its_pairs_of_frames_are_reused(files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    path.write_bytes(clip(8))
    part = {"type": "video_url", "video_url": {"url": str(path)}}
    messages: list[object] = [{"role": "user", "content": [part, {"type": "text", "text": "What moves?"}]}]
    limits = VideoLimits(min_pixels=1024)
    with Qwen35(files[0], n_ctx=1024, n_threads=1, draft=1, video_limits=limits) as model:
        first = model.chat(messages, thinking=False, max_tokens=8, temperature=0)
        messages += [first.choices[0].message, {"role": "user", "content": "And then?"}]
        second = model.chat(messages, thinking=False, max_tokens=8, temperature=0)
        assert model._loaded.vision is not None
        assert model._loaded.vision.encoded == 2  # four frames at two a second
    with Qwen35(files[0], n_ctx=1024, n_threads=1, draft=0, video_limits=limits, cache_bytes=0) as cold:
        assert cold.chat(messages, thinking=False, max_tokens=8, temperature=0).choices == second.choices
        text = cold.chat([{"role": "user", "content": "What moves?"}], thinking=False, max_tokens=8, temperature=0)
        assert text.timings.prompt_tokens < first.timings.prompt_tokens - 2 * 6  # 64 x 96 pixels are six tokens


def test_too_large_a_vision_encoder_is_refused_before_loading(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    black = Image(np.zeros((64, 96, 3), np.uint8), "black")
    messages = [{"role": "user", "content": [{"type": "image", "image": black}]}]
    with Qwen35(files[0], n_ctx=512, n_threads=1, draft=0) as model:
        monkeypatch.setattr(fitting, "available_bytes", lambda: 1000)
        with pytest.raises(MemoryLimitError, match="allow fewer pixels"):
            model.chat(messages)


# ---- long context ------------------------------------------------------------------------------------------------


def test_a_context_beyond_the_native_one_works_and_says_what_it_costs(
    files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    with Qwen35(files[0], n_ctx=8192, n_threads=1, draft=0) as long:
        assert "YaRN is on" in caplog.text
        assert long.chat(HELLO, thinking=False, max_tokens=4, temperature=0).timings.tokens == 4
        prompt = "one two three " * 1500  # 4,500 tokens or more
        assert long.generate(prompt, max_tokens=3, temperature=0).timings.prompt_tokens > 4096


# ---- many --------------------------------------------------------------------------------------------------------


def test_many_prompts_at_once_are_answered_as_one_by_one(shared: Qwen35) -> None:
    prompts = ["one two", "three", HELLO, "four five six seven", "eight"]
    found = shared.generate_many(prompts, parallel=3, max_tokens=10, temperature=0, thinking=False)
    for prompt, answer in zip(prompts, found, strict=True):
        if isinstance(prompt, str):
            assert answer.text == shared.generate(prompt, max_tokens=10, temperature=0, draft=0).text
        else:
            assert answer.text == shared.chat(prompt, thinking=False, max_tokens=10, temperature=0).text
        assert answer.timings.tokens == 10
    assert shared.generate_many([]) == []


def test_many_refuses_what_cannot_be_done(shared: Qwen35) -> None:
    with pytest.raises(errors.MessageError, match="parallel: 0 is not"):
        shared.generate_many(["a"], parallel=0)
    with pytest.raises(errors.ContextError, match=r"prompts\[1\]: .* do not fit"):
        shared.generate_many(["a", "word " * 3000])


# ---- one at a time -----------------------------------------------------------------------------------------------


def test_threads_wait_for_one_another(shared: Qwen35) -> None:
    expected = [shared.chat(HELLO, thinking=False, max_tokens=12, seed=seed).text for seed in range(6)]
    found: dict[int, str] = {}

    def work(seed: int) -> None:
        found[seed] = shared.chat(HELLO, thinking=False, max_tokens=12, seed=seed).text

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(6)] == expected


def test_a_closed_model_says_so(files: list[Path]) -> None:
    model = Qwen35(files[0], n_ctx=256, n_threads=1)
    stream = model.chat(HELLO, stream=True, thinking=False)
    next(stream)
    model.close()
    model.close()
    with pytest.raises(errors.ClosedError, match="was closed"):  # its answer is not complete
        next(stream)
    assert list(stream) == []
    for call in (lambda: model.chat(HELLO), lambda: model.generate("a"), lambda: model.generate_many(["a"])):
        with pytest.raises(errors.ClosedError, match="was closed; load it again"):
            call()


def _allocated() -> int:
    """Bytes of this process that no file stands behind, without what malloc keeps of memory that was freed.

    What malloc keeps depends on the tests before: it grew and shrank by several MB in a process without any leak.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError


def _chat_often(model: Qwen35, times: int) -> None:
    for number in range(times):
        messages = [{"role": "user", "content": f"{number} " * (1 + number % 50)}]
        if number % 7 == 0:
            stream = model.chat(messages, stream=True, max_tokens=6)
            next(stream)
            stream.close()
        elif number % 11 == 0:
            with pytest.raises(errors.ContextError):
                model.chat([{"role": "user", "content": "word " * 600}])
        else:
            options = {"response_format": {"type": "json_object"}} if number % 13 == 0 else {}
            model.chat(messages, thinking=False, max_tokens=4, **options)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the memory from /proc")
def test_memory_stays_flat_over_500_chats(files: list[Path]) -> None:
    with Qwen35(files[0], n_ctx=512, n_threads=1, draft=2) as model:
        _chat_often(model, 150)
        before = _allocated()
        _chat_often(model, 500)
        assert _allocated() - before < 8 << 20
