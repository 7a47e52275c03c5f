"""`AsyncQwen35`: requests wait for one another, and a cancelled one frees the engine."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from inputs.chat_requests import HELLO
from qwen35_gguf import errors
from qwen35_gguf.runtime import AsyncQwen35, Qwen35
from qwen35_gguf.runtime.async_model import AsyncStream

SHORT: dict[str, Any] = {"thinking": False, "max_tokens": 8, "temperature": 0}
ENDLESS: dict[str, Any] = {"thinking": False, "max_tokens": 100_000, "logit_bias": {}, "grammar": 'root ::= "a" root'}


@pytest.fixture(scope="module")
def path(files: list[Path]) -> Path:
    return files[0]


def run(path: Path, work: Callable[[AsyncQwen35], Awaitable[object]]) -> None:
    async def main() -> None:
        async with AsyncQwen35(path, n_ctx=2048, n_threads=1, draft=0) as model:
            await asyncio.wait_for(work(model), 60)

    asyncio.run(main())


def test_calls_side_by_side_give_what_each_gives_alone(path: Path, shared: Qwen35) -> None:
    expected = [shared.chat(HELLO, **SHORT, seed=seed).text for seed in range(5)]
    many = [each.text for each in shared.generate_many(["one", "two"], max_tokens=4, temperature=0)]

    async def work(model: AsyncQwen35) -> None:
        async def streamed(seed: int) -> str:
            pieces = [chunk async for chunk in model.chat(HELLO, stream=True, **SHORT, seed=seed)]
            return "".join(chunk.choices[0].delta.content or "" for chunk in pieces)

        async def whole(seed: int) -> str:
            return (await model.chat(HELLO, **SHORT, seed=seed)).text

        found = await asyncio.gather(*(whole(seed) if seed % 2 else streamed(seed) for seed in range(5)))
        assert found == expected
        assert [each.text for each in await model.generate_many(["one", "two"], max_tokens=4, temperature=0)] == many
        text = await model.generate("one two", max_tokens=3, temperature=0)
        assert text.timings.tokens == 3
        pieces = [piece.text async for piece in model.generate("one two", stream=True, max_tokens=3, temperature=0)]
        assert "".join(pieces) == text.text
        assert await model.count_tokens("one") == 1 + shared.count_tokens("one") - 1
        assert (await model.cache_info()).last is not None

    run(path, work)


@pytest.mark.parametrize("kind", ["chat", "stream", "waiting", "many"])
def test_a_cancelled_request_frees_the_engine(path: Path, kind: str) -> None:
    async def work(model: AsyncQwen35) -> None:
        async def endless() -> None:
            if kind == "stream":
                async for _ in model.chat(HELLO, stream=True, **ENDLESS):
                    pass
            elif kind == "many":
                await model.generate_many(["one"] * 64, max_tokens=1900, parallel=1)
            else:
                await model.chat(HELLO, **ENDLESS)

        before = asyncio.create_task(endless()) if kind == "waiting" else None
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(endless(), 0.2)
        if before is not None:
            before.cancel()
        assert (await model.chat(HELLO, **SHORT)).timings.tokens == 8

    run(path, work)


def test_a_stream_can_be_left_closed_dropped_and_read_slowly(path: Path) -> None:
    async def work(model: AsyncQwen35) -> None:
        async with model.chat(HELLO, stream=True, **ENDLESS) as stream:
            await stream.__anext__()
        assert [chunk async for chunk in stream] == []
        stream = await model.chat(HELLO, stream=True, **ENDLESS)
        await stream.__anext__()
        await stream.aclose()
        await stream.aclose()
        stream = model.chat(HELLO, stream=True, **ENDLESS)
        await stream.__anext__()
        del stream
        gc.collect()
        slow = model.chat(HELLO, stream=True, **SHORT)
        first = await slow.__anext__()
        assert (await model.chat(HELLO, **SHORT)).timings.tokens == 8
        assert len([first] + [chunk async for chunk in slow]) > 1

    run(path, work)


def test_what_is_wrong_is_raised_where_it_is_awaited(path: Path) -> None:
    async def work(model: AsyncQwen35) -> None:
        long = [{"role": "user", "content": "word " * 3000}]
        for call in (
            lambda: model.chat(long),
            lambda: model.chat(long, stream=True),
            lambda: model.chat(long, stream=True).__anext__(),
        ):
            with pytest.raises(errors.ContextError):
                await call()  # type: ignore[no-untyped-call]
        with pytest.raises(errors.MessageError, match="stream: 5 is not True or False"):
            model.chat(HELLO, stream=5)  # type: ignore[call-overload]
        with pytest.raises(errors.TimeLimitError):
            await model.chat(HELLO, timeout=0.0001)

    run(path, work)
    with pytest.raises(errors.MessageError, match="n_ctx: 0"):
        AsyncQwen35(path, n_ctx=0)

    async def missing() -> None:
        async with AsyncQwen35("missing.gguf"):
            pass

    with pytest.raises(errors.ModelError, match="missing.gguf"):
        asyncio.run(missing())


async def _rest(stream: AsyncStream[Any]) -> list[Any]:
    return [piece async for piece in stream]


def test_closing_ends_what_runs_and_what_waits(path: Path) -> None:
    async def main() -> None:
        model = AsyncQwen35(Qwen35(path, n_ctx=2048, n_threads=1, draft=0))
        stream = model.chat(HELLO, stream=True, **ENDLESS)
        await stream.__anext__()
        waiting = asyncio.create_task(model.chat(HELLO, **SHORT))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await model.aclose()
        await model.aclose()
        with pytest.raises(errors.ClosedError):
            await waiting
        with pytest.raises(errors.ClosedError):
            await _rest(stream)
        with pytest.raises(errors.ClosedError):
            await model.chat(HELLO)

    asyncio.run(asyncio.wait_for(main(), 60))
