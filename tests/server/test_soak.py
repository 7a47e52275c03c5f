"""Many requests from several clients: none is lost, no slot stays taken, memory stays flat."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inputs.live_server import LiveServer

CHAT = "/v1/chat/completions"
CLIENTS = 8
ROUNDS = 3
SHORT = int(os.environ.get("QWEN35_SOAK", "1800"))  # requests of all rounds
GROWING = max(ROUNDS, SHORT // 20)  # chats of all rounds
MORE_MEMORY = 64 << 20

pytestmark = pytest.mark.slow


def resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        pytest.skip("needs /proc")


def short_chats(server: LiveServer, count: int) -> None:
    def one(number: int) -> None:
        body = {"messages": [{"role": "user", "content": f"Question {number}"}], "max_tokens": 3}
        answer = server.post(CHAT, {**body, "stream": number % 2 == 0, "seed": number})
        assert answer.status == 200, answer.body
        if number % 2 == 0:
            assert answer.events[-1] == "[DONE]"

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, range(count)))


def growing_chat(server: LiveServer, number: int) -> None:
    messages = [{"role": "system", "content": f"You are assistant {number}."}]
    for turn in range(4):
        messages.append({"role": "user", "content": f"Turn {turn} of chat {number}"})
        answer = server.post(CHAT, {"messages": messages, "max_tokens": 4, "reasoning_effort": "none"})
        assert answer.status == 200, answer.body
        messages.append(answer.json["choices"][0]["message"])


def test_memory_is_flat_and_nothing_is_lost(server: LiveServer) -> None:
    def round_of_requests() -> int:
        short_chats(server, -(-SHORT // ROUNDS))
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda number: growing_chat(server, number), range(-(-GROWING // ROUNDS))))
        return resident_bytes()

    before = resident_bytes()
    rounds = [round_of_requests()]
    threads = threading.active_count()
    rounds += [round_of_requests() for _ in range(ROUNDS - 1)]
    print("MiB before, and after each round:", [size >> 20 for size in (before, *rounds)])
    assert rounds[-1] - rounds[0] < MORE_MEMORY
    assert threading.active_count() <= threads + CLIENTS
    assert 'qwen35_requests_running{model="demo"} 0' in server.get("/metrics").body.decode()
    assert {slot["state"] for slot in server.get("/slots").json} == {"idle"}
