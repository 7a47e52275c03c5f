"""An answer is the same whatever was asked before, runs beside it, or happened to the server."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inputs.live_server import LiveServer

CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "You are a careful assistant who answers in plain words. " * 12}


def question(number: int) -> dict[str, Any]:
    messages = [SYSTEM, {"role": "user", "content": f"Question {number}: what is the capital of France?"}]
    return {"messages": messages, "temperature": 0, "max_tokens": 40, "reasoning_effort": "none"}


def answer(server: LiveServer, number: int) -> str:
    given = server.post(CHAT, question(number))
    assert given.status == 200, given.body
    return str(given.json["choices"][0]["message"]["content"])


@pytest.mark.parametrize("deterministic", [False, True])
def test_alone_and_among_seven_others_cold_and_warm(start: Callable[..., LiveServer], deterministic: bool) -> None:
    load = {"parallel": 8, "deterministic": deterministic}
    alone = start(load=load)
    cold = answer(alone, 0)
    assert answer(alone, 0) == cold
    busy = start(load=load)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            first, *_ = pool.map(lambda number: answer(busy, number), range(8))
            assert first == cold


def test_with_drafts_and_without(start: Callable[..., LiveServer]) -> None:
    without, with_drafts, automatic = (start(load={"draft": draft}) for draft in (0, 3, "auto"))
    for number in range(3):
        assert answer(without, number) == answer(with_drafts, number) == answer(automatic, number)


def test_before_a_restart_and_after(demo: Path, tmp_path: Path) -> None:
    with running(demo, tmp_path) as server:
        before = [answer(server, number) for number in range(3)]
    with running(demo, tmp_path) as server:
        after = [answer(server, number) for number in range(3)]
        assert "qwen35_stored_states" in server.get("/metrics").body.decode()
    assert before == after


@pytest.mark.slow
def test_a_server_that_is_killed_at_any_moment_starts_again(demo: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    with running(demo, tmp_path / "other") as server:
        wanted = [answer(server, number) for number in range(4)]
    for _ in range(4):
        with running(demo, tmp_path / "states", end=signal.SIGKILL) as server, ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(server.post, CHAT, question(number)) for number in range(4)]
            time.sleep(chance.uniform(0.1, 1.5))
            running_processes[-1].kill()
            for each in asked:
                each.exception()  # their connections broke off
    with running(demo, tmp_path / "states") as server:
        assert [answer(server, number) for number in range(4)] == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="the size of files is limited for another process on Linux alone")
def test_on_a_disk_that_is_full(demo: Path, tmp_path: Path) -> None:
    import resource

    long = {"role": "system", "content": "Every word of this counts. " * 250}
    asked = question(0) | {"messages": [long, question(0)["messages"][1]]}

    def answers(server: LiveServer) -> list[str]:
        found = [server.post(CHAT, asked) for _ in range(2)] + [
            server.post(CHAT, question(number)) for number in (1, 2)
        ]
        assert [each.status for each in found] == [200] * 4, found
        assert found[0].json["usage"]["prompt_tokens"] > 1100  # states of 1,024 new tokens are written while it runs
        return [each.json["choices"][0]["message"]["content"] for each in found]

    with running(demo, tmp_path / "other") as server:
        wanted = answers(server)
    ended = running_processes[-1].returncode
    states = tmp_path / "states"
    with running(demo, states) as server:
        process = running_processes[-1]
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1000, 1000))
        assert answers(server) == wanted
        assert answers(server) == wanted
        assert server.get("/health").status == 200
    assert process.returncode == ended  # it could write nothing at its end either
    assert list(states.iterdir()) == []
    with running(demo, states) as server:
        assert answers(server) == wanted
    assert list(states.glob("*.state"))


running_processes: list[subprocess.Popen[bytes]] = []


@contextmanager
def running(model: Path, states: Path, *, end: int = signal.SIGTERM) -> Iterator[LiveServer]:
    """Run the command with a folder for states."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        server = LiveServer(probe.getsockname()[1])
    command = [sys.executable, "-m", "qwen35_gguf.cli", "serve", str(model), "--port", str(server.port), "--quiet"]
    command += ["--ctx", "2048", "--threads", "1", "--draft", "0", "--state-dir", str(states), "--state-bytes", "50MB"]
    environment = os.environ | {"QWEN35_API_KEY": ""}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        running_processes.append(process)
        try:
            limit = time.monotonic() + 120
            while not ready(server):
                assert process.poll() is None
                assert time.monotonic() < limit
                time.sleep(0.1)
            yield server
        finally:
            process.send_signal(end)
            process.wait(60)


def ready(server: LiveServer) -> bool:
    try:
        return server.get("/health").status == 200
    except OSError:
        return False
