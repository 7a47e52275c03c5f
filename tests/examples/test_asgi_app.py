"""The ASGI example answers over a real connection, and a client that goes away frees the model."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from inputs.chat_requests import HELLO
from oracles.paths import ROOT

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("starlette", reason="starlette is not installed")

SHORT = {"messages": HELLO, "max_completion_tokens": 5, "temperature": 0}


@pytest.fixture(scope="module")
def port(files: list[Path]) -> Iterator[int]:
    spec = importlib.util.spec_from_file_location("asgi_app", ROOT / "examples" / "asgi_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["asgi_app"] = module
    spec.loader.exec_module(module)
    app = module.application(str(files[0]), n_ctx=2048, n_threads=1, draft=0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(60)


def post(port: int, body: Any) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", body if isinstance(body, str) else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_chat_is_answered_as_a_whole_and_in_events(port: int) -> None:
    status, body = post(port, SHORT)
    whole = json.loads(body)
    assert status == 200
    assert whole["usage"]["completion_tokens"] == 5
    status, body = post(port, {**SHORT, "stream": True})
    events = body.decode().removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    text = "".join(choice["delta"]["content"] or "" for chunk in chunks for choice in chunk["choices"])
    assert text == whole["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        {"messages": "Hello"},
        {**SHORT, "temperature": "warm"},
        {**SHORT, "stream": True, "seed": -1},
        {
            **SHORT,
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/hosts"}}]}],
        },
    ],
)
def test_bad_requests_are_answered_with_a_line(port: int, body: Any) -> None:
    status, answer = post(port, body)
    assert status == 400
    assert "\n" not in json.loads(answer)["error"]["message"]


def test_a_client_that_goes_away_frees_the_model(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps({"messages": HELLO, "stream": True}))
    connection.getresponse().read(10)
    connection.close()
    assert post(port, SHORT)[0] == 200
