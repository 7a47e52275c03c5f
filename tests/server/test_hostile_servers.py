"""Chats with broken or hostile servers: each answer is read, or is one line; none is a traceback or fills memory."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwen35_gguf.errors import ServerError
from qwen35_gguf.runtime.options import GenerateOptions
from qwen35_gguf.server.client import remote_answer
from qwen35_gguf.server.client.remote_model import RemoteModel

MODELS = b'{"data": [{"id": "m"}]}'
DEEP = b"[" * 200_000
Serve = Callable[[bytes, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that answers GET and POST with two texts, and whose connections then close; return its URL."""
    answers: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(answers["GET"])

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(answers["POST"])

        def _answer(self, data: bytes) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has read enough
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def start(models: bytes, chat: bytes) -> str:
            answers.update(GET=models, POST=chat)
            return f"http://127.0.0.1:{server.server_port}"

        yield start
        server.shutdown()
        thread.join()


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"model": "m", "id": "i", "created": 0, **fields}).encode() + b"\n\n"


def piece(content: Any) -> bytes:
    return event(choices=[{"delta": {"content": content}}])


DONE = b"data: [DONE]\n\n"


def said(url: str) -> str:
    pieces = RemoteModel(url).chat([{"role": "user", "content": "Hello"}], GenerateOptions())
    return "".join(each.choices[0].delta.content or "" for each in pieces)


@pytest.mark.parametrize(
    "last",
    [
        event(choices=[], usage={"total_tokens": 5}),  # OpenAI's stream_options
        b'data: {"choices": [{"delta": {"content": null}}]}\n\n',  # nothing but what is needed
        b": prompt " + b"1" * 10_000 + b"/5\n\n",  # a comment, as any other
        event(choices=[{"delta": {"content": "\U0001f642"}}]),  # two escapes in JSON, one character
    ],
    ids=["usage", "little", "progress", "pair"],
)
def test_what_other_servers_send_is_read(serve: Serve, last: bytes) -> None:
    assert said(serve(MODELS, piece("hi") + last + DONE)) in ("hi", "hi\U0001f642")


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (b'data: {"error": "no"}\n\n', ": no$"),
        (b'data: {"error": {"message": ["no"]}}\n\n', r': \["no"\]$'),
        (piece("a\ud800b"), "is not UTF-8"),  # half a pair, which no terminal can be given
        (piece(5), r"choices\[0\].delta.content is 5; must be a text"),
        (event(choices=[5]), r"choices\[0\] is 5; must be an object"),
        (event(choices={}), "choices is an object|choices is {}; must be a list"),
        (event(), "choices is missing"),
        (event(choices=[{"delta": "x"}]), "must be an object"),
        (event(choices=[{"delta": {"tool_calls": [3]}}]), r"tool_calls\[0\] is 3"),
        (event(choices=[{"delta": {"tool_calls": [{"index": "a"}]}}]), "must be a count"),
        (event(choices=[], timings=[1]), "timings is"),
        (event(choices=[], timings={"tokens": "x"}), "timings.tokens is"),
        (b"data: 5\n\n", "must be an object"),
        (b"data: \xff\n\n", "is not UTF-8"),
        (b"data: " + DEEP + b"\n\n", "nested too deep"),
        (b'data: {"choices": ' + b"1" * 10_000 + b"}\n\n", "is not valid JSON"),
        (b'data: "' + b"x" * (remote_answer.LONGEST + 1), "more than 16 MiB"),
        (b"", "broke off"),
    ],
)
def test_what_cannot_be_an_answer_is_one_line(serve: Serve, chat: bytes, message: str) -> None:
    url = serve(MODELS, chat)
    with pytest.raises(ServerError, match=message) as found:
        said(url)
    assert len(str(found.value).splitlines()) == 1


def test_what_a_server_says_is_wrong_is_cut(serve: Serve) -> None:
    url = serve(MODELS, b"data: " + json.dumps({"error": {"message": "A" * 1_000_000}}).encode() + b"\n\n")
    with pytest.raises(ServerError, match=r"A\.\.\.$") as found:
        said(url)
    assert len(str(found.value)) < 2000


@pytest.mark.parametrize(
    "models",
    [
        *(b"", b"[1]", b"{}", b'{"data": {}}', b'{"data": [5]}', b'{"data": [{"id": 5}]}', b'{"data": []}', DEEP),
        b'"' + b"x" * (remote_answer.LONGEST + 1),
    ],
    ids=lambda models: ascii(models[:24]),
)
def test_models_that_cannot_be_listed_are_one_line(serve: Serve, models: bytes) -> None:
    url = serve(models, b"")
    with pytest.raises(ServerError) as found:
        RemoteModel(url)
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    ["http://localhost:99999", "http://localhost:abc", "http://localhost:0", "http://[", "http://a b", "http://℀.x"],
)
def test_a_malformed_url_is_one_line(url: str) -> None:
    with pytest.raises(ServerError, match="is not the URL of a server"):
        RemoteModel(url)
