"""Whatever a client sends, it gets an answer or a typed error, and the server stays up."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from inputs.chat_requests import HELLO, TOOL
from inputs.live_server import LiveServer

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Erk"
    "Jggg=="
)
PARTS = [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
CHAT = {
    "model": "demo",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        *HELLO,
    ],
    "max_tokens": 1,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 3,
    "n": 1,
    "stop": ["a", "b"],
    "logit_bias": {"5": 1},
    "stream": False,
    "stream_options": {"include_usage": True},
    "tools": [TOOL],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": True},
}
TEXT = {"model": "demo", "prompt": ["Hi", "Ho"], "max_tokens": 1, "stop": ["x"], "logit_bias": {"5": 1}, "n": 1}
FUNCTION = {"name": "weather", "parameters": TOOL["function"]["parameters"]}  # type: ignore[index]
RESPONSE = {
    "model": "demo",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": PIXEL}],
        },
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Well"}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"role": "user", "content": "Hello there"},
    ],
    "max_output_tokens": 1,
    "temperature": 0.5,
    "stream": False,
    "store": True,
    "tools": [{"type": "function", **FUNCTION, "strict": False}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
    "reasoning": {"effort": "low"},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
    "metadata": {"a": "b"},
}
MESSAGE = {
    "model": "demo",
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL.split(",")[1]}},
                {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Well", "signature": "x"},
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"}]},
    ],
    "max_tokens": 1,
    "temperature": 0.5,
    "top_k": 5,
    "stop_sequences": ["a"],
    "stream": False,
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "tools": [{"name": "weather", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXT,
    "/v1/responses": RESPONSE,
    "/v1/messages": MESSAGE,
    "/v1/messages/count_tokens": MESSAGE,
    "/tokenize": {"content": "Hi", "with_pieces": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/apply-template": {"messages": HELLO, "tools": [TOOL]},
}
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
KINDS = (("invalid_request_error",), ("invalid_request_error", "not_found_error", "request_too_large"))
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3.5, 1e300, 10**30, -(10**30), "", "x", "\0", "é" * 9, "<|im_end|>", "<think>", "*",
    "../../etc/passwd",
    "file:///etc/passwd", "data:image/png;base64,AAAA", "data:,", "http://localhost/", [], [None], [[]], {}, {"": ""},
    {"type": "text"}, {"$ref": "#"}, {"type": "json_schema"}, {"role": "user"}, {"function": {}},
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of everything inside of a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [path for key in keys for path in ((*at, key), *places(value[key], (*at, key)))]


def damaged(body: Any, chance: random.Random) -> Any:
    """Replace, remove, rename or repeat a few things inside of a body."""
    made = copy.deepcopy(body)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        found = places(made)
        if not found:
            break
        *path, last = chance.choice(found)
        inside = made
        for key in path:
            inside = inside[key]
        action = chance.random()
        if action < 0.1:
            del inside[last]
        elif action < 0.2 and isinstance(inside, list):
            inside += [copy.deepcopy(inside[last])] * chance.choice((1, 20))
        elif action < 0.25 and isinstance(inside, dict):
            inside[str(chance.choice(VALUES))] = inside.pop(last)
        else:
            inside[last] = copy.deepcopy(chance.choice(VALUES))
    return made


def sent(body: Any, chance: random.Random) -> bytes:
    """Write a body as JSON, and sometimes damage that, too."""
    text = json.dumps(body).encode()
    if chance.random() < 0.05:
        at = chance.randrange(len(text))
        text = chance.choice((text[:at], text[:at] + b"\xff" + text[at:], text + text, b""))
    return text


def check(server: LiveServer, numbers: range) -> None:
    statuses = set()
    for number in numbers:
        chance = random.Random(number)
        path = chance.choice([*PATHS, *PATHS, *BODIES])
        body = damaged(BODIES[path], chance)
        for limit in ("max_tokens", "max_output_tokens"):
            if isinstance(body.get(limit), int) and body[limit] > 1:
                body[limit] = 1
        answer = server.post(path, sent(body, chance))
        statuses.add(answer.status)
        assert answer.status in (200, 400, 404, 413), (number, path, body, answer.body)
        if answer.status != 200:
            error = answer.json["error"]
            assert error["type"] in KINDS[path.startswith("/v1/messages")]
            assert error["message"]
            assert "\n" not in error["message"]
    assert {200, 400} <= statuses
    assert server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1}).status == 200


def test_malformed_requests_get_typed_errors(server: LiveServer) -> None:
    check(server, range(150))


@pytest.mark.slow
def test_a_thousand_malformed_requests_get_typed_errors(server: LiveServer) -> None:
    check(server, range(1000, 2000))


def test_what_is_not_http_ends_with_its_connection(server: LiveServer) -> None:
    for data in (
        b"\0" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n",
        b"A" * 99999,
    ):
        connection = server.connection()
        connection.connect()
        connection.sock.sendall(data)
        connection.close()
    assert server.get("/health").status == 200
