"""Requests by which one client would keep all others waiting, or that pass a limit by another spelling."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from inputs.chat_requests import HELLO
from inputs.live_server import LiveServer
from qwen35_gguf.runtime.chat.prompt_texts import PromptTexts
from qwen35_gguf.runtime.chat.structured import tool_grammar
from qwen35_gguf.runtime.options import GenerateOptions
from qwen35_gguf.server import json_body, request_limits
from qwen35_gguf.server.api import tools
from qwen35_gguf.server.api.anthropic import routes as messages_routes
from qwen35_gguf.server.api.responses import routes as responses_routes

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


LONG = "word " * 20_000
LARGE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": LONG}]},
    "/v1/completions": {"prompt": LONG},
    "/v1/responses": {"input": LONG},
    "/v1/messages": {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": LONG}]},
    "/apply-template": {"messages": [{"role": "user", "content": LONG}]},
    "/tokenize": {"content": LONG},
    "/detokenize": {"tokens": [5] * 50_000},
    "/page/render": {"texts": [LONG]},
}


@pytest.mark.parametrize("path", LARGE)
def test_large_bodies_keep_nobody_waiting(path: str, server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, others, checked = threading.Event(), threading.Event(), threading.Event()
    parse, options = json_body._object, GenerateOptions.of

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert others.wait(60)
        return parse(*arguments)

    def also_slow(*arguments: Any) -> Any:
        if not checked.is_set():
            checked.set()
            assert server.get("/health").status == 200  # would wait for ever on the loop
        return options(*arguments)

    monkeypatch.setattr(json_body, "_object", slow)
    monkeypatch.setattr(GenerateOptions, "of", also_slow)
    statuses: list[int] = []
    asking = threading.Thread(target=lambda: statuses.append(server.post(path, LARGE[path]).status))
    asking.start()
    assert begun.wait(60)
    assert [server.get("/health").status for _ in range(5)] == [200] * 5
    others.set()
    asking.join()
    assert statuses in ([200], [400])  # a prompt may be longer than the context
    assert checked.is_set() == ("messages" in LARGE[path] or "prompt" in LARGE[path] or "input" in LARGE[path])


MANY = 1 << 20
TOO_MUCH: dict[str, tuple[str, Any]] = {
    "commas": ("/v1/completions", b'{"prompt": [' + b"5," * MANY + b"5, 5]}"),
    "brackets": ("/v1/chat/completions", b'{"messages": [' + b"[]," * (MANY // 4) + b"5]}"),
    "backslashes": ("/tokenize", b'{"content": "' + rb"\n" * (4 * MANY + 1) + b'"}'),
    "texts": ("/tokenize", {"content": "a" * (8 * MANY + 1)}),
    "texts in UTF-8": ("/tokenize", json.dumps({"content": "é" * (4 * MANY)}, ensure_ascii=False).encode()),
    "biases": ("/v1/chat/completions", {"messages": HELLO, "logit_bias": {str(one): 1 for one in range(65_537)}}),
    "messages": ("/v1/messages", {"messages": HELLO * 4097, "max_tokens": 1}),
    "parts": ("/v1/messages", {"messages": [{"role": "user", "content": [{}] * 16_385}], "max_tokens": 1}),
    "items": ("/v1/responses", {"input": [{}] * 16_385}),
    "metadata": ("/v1/responses", {"input": "a", "metadata": {str(one): 1 for one in range(200_000)}}),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_bodies_that_would_take_long(what: str, server: LiveServer) -> None:
    path, body = TOO_MUCH[what]
    answer = server.post(path, body)
    assert answer.status == 413, answer.body[:300]
    assert len(answer.body) < 300


def test_answers_to_all_prompts_are_counted(server: LiveServer) -> None:
    assert server.post("/v1/completions", {"prompt": ["a"] * 16, "n": 5}).status == 400


@pytest.mark.parametrize(
    ("path", "module"), [("/v1/responses", responses_routes), ("/v1/messages", messages_routes)], ids=str
)
def test_tools_are_measured_and_tried_once(
    path: str, module: Any, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    tried: list[str] = []
    check_size, byte_matcher = request_limits.check_size, tool_grammar.byte_matcher
    for place in (request_limits, module):
        monkeypatch.setattr(
            place, "check_size", lambda name, *more: (measured.append(name), check_size(name, *more))[1], raising=False
        )
    monkeypatch.setattr(
        tool_grammar, "byte_matcher", lambda rules, *more: (tried.append(rules), byte_matcher(rules, *more))[1]
    )
    schema = {"type": "object", "properties": {"a": {"enum": [f"only here: {path}"]}, "b": {"type": "integer"}}}
    tool = {"name": "f", "input_schema": schema} if "messages" in path else {"name": "f", "parameters": schema}
    body = {"messages": HELLO, "input": "Hello", "max_tokens": 1, "tools": [{"type": "function", **tool}]}
    if "messages" in path:
        del body["tools"][0]["type"]
    assert server.post(path, body).status == 200
    assert measured.count("tools") == 1
    assert len(tried) == len(set(tried))
    assert any("only here" in one for one in tried)
    before = len(tried)
    assert server.post(path, body).status == 200
    assert len(tried) == before


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
