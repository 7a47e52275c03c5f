"""Streams belong to the model: any thread reads them, other calls run in between, and closing frees the engine."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inputs.chat_requests import HELLO
from qwen35_gguf import errors
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.chat.openai_types import ChatCompletionChunk

OTHER = [{"role": "user", "content": "Count to ten, and then count further."}]
LONG = [{"role": "user", "content": "word " * 800}]


def text(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 5, "temperature": 1.2}], ids=["greedy", "random"])
def test_streams_read_by_turns_give_what_each_gives_alone(shared: Qwen35, options: dict[str, object]) -> None:
    requests = [(HELLO, {"thinking": False}), (OTHER, {"thinking": True, "thinking_budget": 7})]
    arguments = [(messages, {"max_tokens": 25, **options, **more}) for messages, more in requests]
    alone = [list(shared.chat(messages, stream=True, **more)) for messages, more in arguments]  # type: ignore[call-overload]
    streams = [shared.chat(messages, stream=True, **more) for messages, more in arguments]  # type: ignore[call-overload]
    by_turns: list[list[ChatCompletionChunk]] = [[], []]
    for pieces in itertools.zip_longest(*streams):
        for found, piece in zip(by_turns, pieces, strict=True):
            found += [piece] if piece is not None else []
    for found, expected in zip(by_turns, alone, strict=True):
        assert [chunk.choices for chunk in found] == [chunk.choices for chunk in expected]


def test_any_call_may_run_between_two_reads(shared: Qwen35) -> None:
    expected = text(list(shared.chat(HELLO, stream=True, thinking=False, max_tokens=20, temperature=0)))
    with shared.chat(HELLO, stream=True, thinking=False, max_tokens=20, temperature=0) as stream:
        found = [next(stream), next(stream)]
        whole = shared.chat(OTHER, thinking=False, max_tokens=5, temperature=0).text
        found.append(next(stream))
        assert shared.generate("one two", max_tokens=3).timings.tokens == 3
        assert len(shared.generate_many(["a", "b"], max_tokens=3)) == 2
        found += stream
    assert text(found) == expected
    assert shared.chat(OTHER, thinking=False, max_tokens=5, temperature=0).text == whole


def test_the_threads_of_a_pool_share_streams_and_calls(shared: Qwen35) -> None:
    expected = [shared.chat(HELLO, thinking=False, max_tokens=12, seed=seed).text for seed in range(4)]
    with ThreadPoolExecutor(3) as pool:
        streams = [shared.chat(HELLO, stream=True, thinking=False, max_tokens=12, seed=seed) for seed in range(2)]
        found = [list[ChatCompletionChunk](), list[ChatCompletionChunk]()]
        firsts = [pool.submit(next, stream) for stream in streams]
        options = {"thinking": False, "max_tokens": 12}
        calls = [pool.submit(lambda s=seed: shared.chat(HELLO, seed=s, **options).text) for seed in (2, 3)]
        for got, first, stream in zip(found, firsts, streams, strict=True):
            got.append(first.result())
            got += pool.submit(list, stream).result()
        assert [text(got) for got in found] + [call.result() for call in calls] == expected


def test_closing_frees_the_engine_from_any_thread(shared: Qwen35) -> None:
    stream = shared.chat(LONG, stream=True, thinking=False, max_tokens=500)
    threading.Thread(target=lambda: (time.sleep(0.05), stream.close())).start()
    list(stream)  # it ends, whether the close comes while the prompt is evaluated or later
    stream.close()
    assert list(stream) == []
    assert shared.chat(HELLO, thinking=False, max_tokens=2).timings.tokens == 2


def test_a_forgotten_stream_lets_go(shared: Qwen35) -> None:
    stream = shared.chat(HELLO, stream=True, thinking=False, max_tokens=20)
    next(stream)
    del stream
    gc.collect()
    assert shared.chat(HELLO, thinking=False, max_tokens=2).timings.tokens == 2


def test_a_request_has_a_time_limit(shared: Qwen35) -> None:
    for call in (
        lambda: shared.chat(LONG, timeout=0.001),
        lambda: list(shared.chat(LONG, timeout=0.001, stream=True)),
        lambda: shared.generate("word " * 800, timeout=0.001),
        lambda: shared.generate_many(["word " * 800], timeout=0.001),
    ):
        with pytest.raises(errors.TimeLimitError, match=r"is not done after timeout=0.001 s"):
            call()
    with pytest.raises(errors.MessageError, match="timeout: "):
        shared.chat(HELLO, timeout=-1)
    assert shared.chat(HELLO, thinking=False, max_tokens=2, timeout=100).timings.tokens == 2


def test_what_is_wrong_is_refused_before_the_first_piece(shared: Qwen35) -> None:
    with pytest.raises(errors.ContextError, match="do not fit"):
        shared.chat([{"role": "user", "content": "word " * 5000}], stream=True)
    with pytest.raises(errors.GrammarError):
        shared.chat(HELLO, stream=True, grammar="root ::= (")


def test_closing_the_model_ends_the_stream_of_another_thread(files: list[Path]) -> None:
    model = Qwen35(files[0], n_ctx=2048, n_threads=1, draft=0)
    stream = model.chat(HELLO, stream=True, thinking=False, max_tokens=2000, temperature=0)
    first, outcome = threading.Event(), list[object]()

    def read() -> None:
        try:
            for _ in stream:
                first.set()
                time.sleep(0.005)
        except errors.ClosedError as error:
            outcome.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    first.wait()
    model.close()
    thread.join()
    assert len(outcome) == 1
    assert list(stream) == []


def test_a_callback_that_uses_the_model_is_told(shared: Qwen35) -> None:
    with pytest.raises(errors.BusyError, match="a callback may not use"):
        shared.chat(HELLO, on_progress=lambda *_: shared.chat(HELLO))
    assert shared.chat(HELLO, thinking=False, max_tokens=2).timings.tokens == 2
