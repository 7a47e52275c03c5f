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
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXT,
    "/tokenize": {"content": "Hi", "with_pieces": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/apply-template": {"messages": HELLO, "tools": [TOOL]},
}
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
        path = chance.choice(["/v1/chat/completions"] * 3 + list(BODIES))
        body = damaged(BODIES[path], chance)
        if isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 1:
            body["max_tokens"] = 1
        answer = server.post(path, sent(body, chance))
        statuses.add(answer.status)
        assert answer.status in (200, 400, 404, 413), (number, path, body, answer.body)
        if answer.status != 200:
            error = answer.json["error"]
            assert error["type"] == "invalid_request_error"
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
