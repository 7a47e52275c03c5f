"""Models that leave as soon as they are idle, while requests of many clients come for both, stay away and break off."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from inputs.chat_requests import HELLO
from inputs.live_server import LiveServer
from qwen35_gguf.runtime.async_model import AsyncQwen35
from qwen35_gguf.runtime.loading import planned_bytes
from qwen35_gguf.runtime.options import LoadOptions

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"messages": HELLO, "max_tokens": 8, "temperature": 0, "seed": 1}
NAMES = ("one", "two")


@pytest.fixture
def server(start: Callable[..., LiveServer], demo: Path, monkeypatch: pytest.MonkeyPatch) -> LiveServer:
    """One model fits, and an idle one leaves within milliseconds."""
    from qwen35_gguf.server import app

    monkeypatch.setattr(app, "IDLE_CHECK", 0.002)
    needs = planned_bytes(LoadOptions(demo, n_ctx=2048, n_threads=1, draft=0, parallel=4), 1 << 40)
    return start(names=NAMES, models={"ttl": 0.001, "memory": needs * 3 // 2})


def said(answer: Any) -> str:
    assert answer.status == 200, answer.body
    if answer.headers["content-type"].startswith("text/event-stream"):
        deltas = [choice["delta"] for event in answer.events[:-1] for choice in event["choices"]]
        return "".join(delta.get("content") or delta.get("reasoning_content") or "" for delta in deltas)
    message = answer.json["choices"][0]["message"]
    return str(message.get("content") or "") or str(message.get("reasoning_content"))


def break_off(server: LiveServer, chance: random.Random) -> None:
    """Ask, and go away before the answer."""
    body = b'{"model": "two", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 500, "stream": true}'
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + body)
        time.sleep(chance.random() * 0.2)


def test_requests_alternate_while_models_leave(server: LiveServer) -> None:
    wanted = said(server.post(CHAT, {"model": "one", **BODY}))

    def ask(number: int) -> str:
        chance = random.Random(number)
        time.sleep(chance.random() * 0.05)  # gaps in which both are idle
        if number % 7 == 6:
            break_off(server, chance)
            return wanted
        return said(server.post(CHAT, {"model": NAMES[number % 2], "stream": number % 3 == 0, **BODY}))

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(60)))
    assert set(answers) == {wanted}
    assert server.get("/health").status == 200
    end = time.monotonic() + 60
    while {model["state"] for model in server.get("/v1/models").json["data"]} != {"unloaded"}:
        assert time.monotonic() < end  # nothing that broke off holds a model
        time.sleep(0.05)


def test_a_request_during_an_unload_waits_and_is_answered(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    leaving, go_on = threading.Event(), threading.Event()
    close = AsyncQwen35.aclose

    async def slow(self: AsyncQwen35) -> None:
        import asyncio

        leaving.set()
        await asyncio.to_thread(go_on.wait, 60)
        await close(self)

    wanted = said(server.post(CHAT, {"model": "one", **BODY}))
    monkeypatch.setattr(AsyncQwen35, "aclose", slow)
    assert leaving.wait(60) or said(server.post(CHAT, {"model": "one", **BODY})) == wanted
    answers: list[str] = []
    asking = [
        threading.Thread(target=lambda name=name: answers.append(said(server.post(CHAT, {"model": name, **BODY}))))
        for name in NAMES
    ]
    for thread in asking:
        thread.start()
    assert server.get("/health").status == 200  # nobody else waits
    assert server.get("/metrics").status == 200
    assert not answers
    go_on.set()
    for thread in asking:
        thread.join()
    assert answers == [wanted] * 2
