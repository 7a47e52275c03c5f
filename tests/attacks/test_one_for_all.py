"""Requests by which one client would keep all others waiting, or that pass a limit by another spelling."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from inputs.chat_requests import HELLO
from inputs.live_server import LiveServer
from qwen35_gguf.runtime.chat.prompt_texts import PromptTexts
from qwen35_gguf.server.api import tools

PIXEL = "data:image/png;base64,iVBORw0KGgo="  # the limit comes before the image is read
SCHEMA = {"type": "object", "properties": {"a": {"enum": [f"word {number}" for number in range(50_000)]}}}
TOOLS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": HELLO,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
    },
    "/v1/responses": {"input": "Hello", "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]},
    "/v1/messages": {"messages": HELLO, "max_tokens": 1, "tools": [{"name": "f", "input_schema": SCHEMA}]},
    "/v1/messages/count_tokens": {"messages": HELLO, "tools": [{"name": "f", "input_schema": SCHEMA}]},
}


@pytest.mark.parametrize("path", TOOLS)
def test_tools_are_measured_before_they_are_tried(
    path: str, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(tools, "_enforceable", tried.append)
    assert server.post(path, TOOLS[path]).status == 413
    assert not tried


@pytest.mark.parametrize(
    ("path", "body", "method"),
    [
        ("/tokenize", {"content": "a"}, "tokenize"),
        ("/detokenize", {"tokens": [5]}, "pieces"),
        ("/apply-template", {"messages": HELLO}, "render"),  # which also fetches images
        ("/v1/messages/count_tokens", {"messages": HELLO}, "count"),
    ],
)
def test_texts_that_take_long_keep_nobody_waiting(
    path: str, body: Any, method: str, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, others = threading.Event(), threading.Event()
    original = getattr(PromptTexts, method)

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert others.wait(60)
        return original(*arguments, **options)

    monkeypatch.setattr(PromptTexts, method, slow)
    statuses: list[int] = []
    asking = threading.Thread(target=lambda: statuses.append(server.post(path, body).status))
    asking.start()
    assert begun.wait(60)
    assert server.get("/health").status == 200
    others.set()
    asking.join()
    assert statuses == [200]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/messages/count_tokens"])
def test_tools_that_take_long_to_try_keep_nobody_waiting(
    path: str, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.loads(json.dumps(TOOLS[path]))
    for tool in body["tools"]:
        tool.pop("parameters", None)
        tool["input_schema"] = {"type": "object"}
    begun, others = threading.Event(), threading.Event()
    monkeypatch.setattr(tools, "_enforceable", lambda _: begun.set() or others.wait(60))
    asking = threading.Thread(target=lambda: server.post(path, body))
    asking.start()
    assert begun.wait(60)
    assert server.get("/health").status == 200
    others.set()
    asking.join()


@pytest.mark.parametrize("stream", ["true", "false"])
def test_numbers_beyond_all_bounds_are_not_repeated(stream: str, server: LiveServer) -> None:
    body = f'{{"input": "Hello", "max_output_tokens": 1, "metadata": {{"a": 1e999}}, "stream": {stream}}}'
    assert server.ask("POST", "/v1/responses", body).status == 400


@pytest.mark.parametrize("place", ["arguments", "message", "kwargs"])
def test_values_that_are_nested_deeply(place: str, server: LiveServer) -> None:
    deep = "[" * 900 + "]" * 900
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": f'{{"a": {deep}}}'}}
    messages: list[Any] = [{"role": "user", "content": "a"}]
    options: dict[str, Any] = {}
    if place == "arguments":
        messages += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "b"}]
    elif place == "message":
        messages[0]["more"] = json.loads(deep)
    else:
        options = {"chat_template_kwargs": {"enable_thinking": json.loads(deep)}}
    answer = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1, **options})
    assert answer.status in (200, 400), answer.json


@pytest.mark.parametrize("part", [{"image": PIXEL}, {"image_url": PIXEL}, {"type": "x", "image": PIXEL}], ids=str)
def test_images_count_however_they_are_written(part: dict[str, str], server: LiveServer) -> None:
    messages = [{"role": "user", "content": [part] * 65}]
    assert server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1}).status == 413
