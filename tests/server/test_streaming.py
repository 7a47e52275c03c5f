"""Server-sent events: heartbeats, readers that stop reading, clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from inputs.chat_requests import HELLO
from inputs.live_server import LiveServer
from qwen35_gguf.server.streaming import ClientGoneError, EventStream, event, unless_gone

CHAT = "/v1/chat/completions"


async def slowly(*pauses: float) -> AsyncGenerator[bytes, None]:
    for number, pause in enumerate(pauses):
        await asyncio.sleep(pause)
        yield b"%d" % number


async def never() -> Any:
    await asyncio.Event().wait()


async def answered(events: AsyncGenerator[bytes, None], send: Any, *closed: Any, **times: float) -> None:
    held = contextlib.AsyncExitStack()
    for each in closed:
        held.callback(each)
    stream = EventStream(events, held, **({"patience": 60, "heartbeat": 60} | times), beat=lambda: b":")
    await stream({"type": "http"}, never, send)


def test_silence_is_filled_with_comments() -> None:
    found: list[bytes] = []

    async def send(message: Any) -> None:
        found.append(message.get("body", b"start"))

    asyncio.run(answered(slowly(0, 0.5, 0), send, heartbeat=0.05))
    assert [one for one in found if one != b":"] == [b"start", b"0", b"1", b"2", b""]
    assert found.index(b"1") - found.index(b"0") > 2


def test_an_event_is_one_line_of_data() -> None:
    assert event({"text": "a\nb\u2028é"}).decode() == 'data: {"text":"a\\nb\u2028é"}\n\n'
    assert event("x", "name") == b"event: name\ndata: x\n\n"


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_a_reader_that_stops_is_dropped_and_everything_closed(reads: int) -> None:
    closed = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append("events")

    async def main() -> None:
        count = 0

        async def send(message: Any) -> None:
            nonlocal count
            count += message["type"] == "http.response.body"
            if count > reads:
                await never()

        await answered(events(), send, lambda: closed.append("held"), patience=0.05)

    asyncio.run(main())
    assert closed == ["events", "held"]


@pytest.mark.parametrize("waits", [b":", b""], ids=["comment", "end"])
def test_a_reader_that_stops_at_a_comment_or_the_end_is_dropped(waits: bytes) -> None:
    closed = []

    async def main() -> None:
        stuck = asyncio.Event()

        async def send(message: Any) -> None:
            if stuck.is_set() or message.get("body") == waits:  # what comes after it waits as well
                stuck.set()
                await never()

        pieces = slowly(0, 0.3, 0) if waits else slowly(0)
        times = {"patience": 0.2, "heartbeat": 0.05 if waits else 60}
        work = asyncio.ensure_future(answered(pieces, send, lambda: closed.append("held"), **times))
        done, _ = await asyncio.wait({work}, timeout=20)
        assert done

    asyncio.run(main())
    assert closed == ["held"]


def test_work_ends_with_its_client() -> None:
    async def main() -> None:
        async def receive() -> Any:
            await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        with pytest.raises(ClientGoneError):
            await unless_gone(receive, never())
        assert await unless_gone(never, asyncio.sleep(0, "done")) == "done"

    asyncio.run(main())


def test_clients_that_vanish_at_random_moments_leave_nothing_behind(server: LiveServer) -> None:
    chance = random.Random(0)
    body = b'{"messages": [{"role": "user", "content": "Tell me a long story"}], "stream": true, "max_tokens": 200}'
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body))
    for _ in range(30):
        connection = server.connection()
        connection.connect()
        whole = head + body
        connection.sock.sendall(whole[: chance.choice((len(whole), chance.randrange(len(whole))))])
        time.sleep(chance.random() * 0.03)
        connection.close()
    assert server.post(CHAT, {"messages": HELLO, "max_tokens": 2}).status == 200
    end = time.monotonic() + 60
    while 'qwen35_requests_running{model="demo"} 0' not in server.get("/metrics").body.decode():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_streams_run_side_by_side(server: LiveServer) -> None:
    body = {"messages": HELLO, "stream": True, "max_tokens": 400, "temperature": 0}
    alone = server.post(CHAT, body).events
    connections = [server.connection() for _ in range(4)]
    for connection in connections:
        connection.request("POST", CHAT, json.dumps(body))
    responses = [connection.getresponse() for connection in connections]
    begun = [response.read(100) for response in responses]  # each has begun before another is read to its end
    for begin, response, connection in zip(begun, responses, connections, strict=True):
        events = [
            json.loads(part[6:]) for part in (begin + response.read()).decode().split("\n\n") if part[:7] == "data: {"
        ]
        assert text_of(events) == text_of(alone[:-1])
        connection.close()


def text_of(events: list[Any]) -> str:
    deltas = [event["choices"][0]["delta"] for event in events]
    return "".join((delta.get("reasoning_content") or "") + (delta.get("content") or "") for delta in deltas)
