"""Clients that send or read as slowly as they can hold a connection, and nothing else; in the end not even that."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from inputs.chat_requests import HELLO
from inputs.live_server import LiveServer
from qwen35_gguf.server import connection

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
MANY = 200


@pytest.fixture
def connected() -> Iterator[Callable[..., socket.socket]]:
    """Connect; all connections are closed in the end."""
    with contextlib.ExitStack() as stack:

        def connect(server: LiveServer, data: bytes = b"") -> socket.socket:
            made = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            made.sendall(data)
            return made

        yield connect


def is_closed(connection: socket.socket, seconds: float = 20) -> bool:
    """Whether the other side closes a connection; what it sends before is dropped."""
    connection.settimeout(seconds)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    "beginning",
    [b"", b"P", HEAD[:30], HEAD, HEAD + b"Content-Length: 1000\r\n\r\n{"],
    ids=["", "P", "line", "head", "body"],
)
def test_many_half_requests_keep_nobody_waiting(
    beginning: bytes, server: LiveServer, connected: Callable[..., socket.socket]
) -> None:
    for _ in range(MANY):
        connected(server, beginning)
    answer = server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1})
    assert answer.status == 200


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", HEAD], ids=["", "line", "head"])
def test_a_head_that_does_not_come_ends_the_connection(
    beginning: bytes,
    server: LiveServer,
    connected: Callable[..., socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    assert is_closed(connected(server, beginning))


def test_bytes_one_by_one_do_not_win_time(
    server: LiveServer, connected: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)
    made, end, cut = connected(server, HEAD), time.monotonic() + 30, False
    while not cut and time.monotonic() < end:
        time.sleep(0.05)
        try:
            made.sendall(b"X-A: b\r\n")
        except OSError:  # a broken pipe, or a reset
            cut = True
    assert cut


def test_the_second_request_of_a_connection_has_the_same_limit(
    server: LiveServer, connected: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)
    made = connected(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200 OK" in made.recv(1 << 16)
    made.sendall(b"GET /health HTTP/1.1\r\n")
    assert is_closed(made)


def test_a_request_that_takes_longer_to_answer_is_not_cut(
    server: LiveServer, connected: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    body = json.dumps({"messages": HELLO, "max_tokens": 200, "temperature": 0}).encode()
    made = connected(server, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    made.settimeout(60)
    answer = b""
    while part := made.recv(1 << 16):
        answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"finish_reason"' in answer


def test_a_body_that_does_not_come_is_refused(
    start: Callable[..., LiveServer], connected: Callable[..., socket.socket]
) -> None:
    impatient = start(patience=0.3)
    made = connected(impatient, HEAD + b"Content-Length: 1000\r\n\r\n{")
    made.settimeout(30)
    assert made.recv(1 << 16).startswith(b"HTTP/1.1 408")
    assert impatient.get("/health").status == 200


def test_a_stream_that_nobody_reads_frees_the_model(
    start: Callable[..., LiveServer], connected: Callable[..., socket.socket]
) -> None:
    impatient = start(patience=0.5)
    body = json.dumps({"messages": HELLO, "max_tokens": 1500, "stream": True, "stop_loops": False}).encode()
    for _ in range(6):  # more than run side by side
        connected(impatient, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert impatient.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1}).status == 200
