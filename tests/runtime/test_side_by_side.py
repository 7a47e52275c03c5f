"""Requests side by side on a model: what each says alone, from threads and from asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qwen35_gguf.runtime import AsyncQwen35, Qwen35

SYSTEM = {"role": "system", "content": "You are terse. " * 20}
OPTIONS: dict[str, Any] = {"thinking": False, "max_tokens": 24, "temperature": 0}


def chat(number: int) -> list[dict[str, str]]:
    return [SYSTEM, {"role": "user", "content": f"Count to {number}, then say why. " * (1 + number % 3)}]


@pytest.fixture(scope="module")
def alone(files: list[Path]) -> list[str]:
    with Qwen35(files[0], n_ctx=1024, n_threads=1, draft=0) as model:
        return [model.chat(chat(number), **OPTIONS).text or "" for number in range(8)]


@pytest.fixture(scope="module", params=[0, 2], ids=["plain", "drafts"])
def model(files: list[Path], request: pytest.FixtureRequest) -> Iterator[Qwen35]:
    with Qwen35(files[0], n_ctx=1024, n_threads=1, draft=request.param, parallel=4) as loaded:
        yield loaded


def test_eight_threads_get_what_each_gets_alone(model: Qwen35, alone: list[str]) -> None:
    for _ in range(2):  # cold and warm
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: model.chat(chat(number), **OPTIONS).text, range(8)))
        assert found == alone


def test_streams_of_threads_run_at_once(model: Qwen35, alone: list[str]) -> None:
    barrier = threading.Barrier(4)

    def read(number: int) -> str:
        with model.chat(chat(number), stream=True, **OPTIONS) as stream:
            first = next(stream)
            barrier.wait(60)  # all have begun before any ends
            return "".join(chunk.choices[0].delta.content or "" for chunk in [first, *stream])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == alone[:4]


def test_prompts_of_one_call_use_the_same_sequences(model: Qwen35, alone: list[str]) -> None:
    found = model.generate_many([chat(number) for number in range(8)], **OPTIONS)
    assert [result.text for result in found] == alone
    several = model.chat(chat(3), n=3, **OPTIONS)
    assert [choice.message.content for choice in several.choices] == [alone[3]] * 3


def test_tasks_stream_at_once(files: list[Path], alone: list[str]) -> None:
    async def main() -> None:
        async with AsyncQwen35(files[0], n_ctx=1024, n_threads=1, draft=0, parallel=4) as model:

            async def read(number: int) -> str:
                stream = model.chat(chat(number), stream=True, **OPTIONS)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            assert await asyncio.gather(*map(read, range(4))) == alone[:4]
            whole = await asyncio.gather(*(model.chat(chat(number), **OPTIONS) for number in range(8)))
            assert [result.text for result in whole] == alone

    asyncio.run(asyncio.wait_for(main(), 120))


def test_deterministic_answers_do_not_depend_on_what_runs_beside(files: list[Path]) -> None:
    options: dict[str, Any] = {"thinking": False, "max_tokens": 24, "seed": 3, "temperature": 1.0}
    with Qwen35(files[0], n_ctx=1024, n_threads=1, parallel=4, deterministic=True) as model:
        alone = [model.chat(chat(number), **options).text for number in range(4)]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda number: model.chat(chat(number), **options).text, range(4))) == alone
