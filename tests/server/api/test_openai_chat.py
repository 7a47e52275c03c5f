"""Chat completions over a real connection."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inputs.chat_requests import HELLO, TOOL
from inputs.live_server import LiveServer

CHAT = "/v1/chat/completions"
SHORT = {"messages": HELLO, "max_completion_tokens": 8, "temperature": 0}


def test_an_answer_comes_as_a_whole_and_in_pieces(server: LiveServer) -> None:
    whole = server.post(CHAT, {"model": "demo", **SHORT})
    assert whole.status == 200
    message = whole.json["choices"][0]["message"]
    assert whole.json["usage"]["completion_tokens"] <= 8
    streamed = server.post(CHAT, {**SHORT, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *chunks, last = streamed.events
    assert last == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    for name in ("content", "reasoning_content"):
        assert "".join(delta.get(name) or "" for delta in deltas) == (message.get(name) or "")
    assert chunks[-1]["choices"][0]["finish_reason"] == whole.json["choices"][0]["finish_reason"]
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_is_a_chunk_of_its_own_where_it_is_asked_for(server: LiveServer) -> None:
    body = {**SHORT, "stream": True, "stream_options": {"include_usage": True}}
    *_, last, done = server.post(CHAT, body).events
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] <= 8


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ("{", 400, None),
        ("[]", 400, None),
        ("[" * 100_000, 400, None),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, None),
        ({**SHORT, "temperature": float("nan")}, 400, None),
        ({}, 400, "messages"),
        ({"messages": "Hello"}, 400, "messages"),
        ({"messages": []}, 400, "messages"),
        ({**SHORT, "temperature": "warm"}, 400, "temperature"),
        ({**SHORT, "stream": "yes"}, 400, "stream"),
        ({**SHORT, "stream": True, "top_p": 7}, 400, "top_p"),
        ({**SHORT, "model": "other"}, 404, "model"),
        ({**SHORT, "model": 7}, 400, "model"),
        ({**SHORT, "n": 100}, 400, "n"),
        ({**SHORT, "audio": {}}, 400, "audio"),
        ({**SHORT, "modalities": ["audio"]}, 400, "modalities"),
        ({**SHORT, "tool_choice": {"type": "allowed_tools"}}, 400, "tool_choice"),
        ({**SHORT, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [7]}}}, 400, "tool_choice"),
        ({**SHORT, "reasoning_effort": "huge"}, 400, "reasoning_effort"),
        ({**SHORT, "chat_template_kwargs": {"messages": []}}, 400, "chat_template_kwargs"),
        ({**SHORT, "chat_template_kwargs": {"colour": "red"}}, 400, "template_options"),
        ({**SHORT, "grammar": "x" * 100_000}, 413, "grammar"),
        ({"messages": HELLO * 5000}, 413, "messages"),
    ],
)
def test_wrong_requests_get_an_error_object(server: LiveServer, body: Any, status: int, param: str | None) -> None:
    answer = server.post(CHAT, body)
    error = answer.json["error"]
    assert (answer.status, error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


@pytest.mark.parametrize("url", ["/etc/hosts", "file:///etc/hosts", "http://127.0.0.1/x", "https://127.0.0.1/x"])
def test_media_come_neither_from_this_machine_nor_from_its_network(server: LiveServer, url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    answer = server.post(CHAT, {**SHORT, "messages": [{"role": "user", "content": [part]}]})
    assert answer.status == 400


def test_unknown_fields_and_null_are_accepted(server: LiveServer) -> None:
    body = {**SHORT, "store": True, "metadata": {"a": "b"}, "frobnicate": 1, "seed": -1, "tools": None, "n": None}
    assert server.post(CHAT, body).status == 200


def test_thinking_follows_the_effort(server: LiveServer) -> None:
    for body in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}):
        message = server.post(CHAT, {**SHORT, **body}).json["choices"][0]["message"]
        assert "reasoning_content" not in message
    message = server.post(CHAT, {**SHORT, "reasoning_effort": "low"}).json["choices"][0]["message"]
    assert message["reasoning_content"]


def test_of_several_tools_only_the_allowed_ones_are_called(server: LiveServer) -> None:
    time = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}
    body = {**SHORT, "max_completion_tokens": 200, "reasoning_effort": "none", "parallel_tool_calls": False}
    for name in ("weather", "time"):
        allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": name}}]}
        choice = {"type": "allowed_tools", "allowed_tools": allowed}
        answer = server.post(CHAT, {**body, "tools": [TOOL, time], "tool_choice": choice}).json
        assert [call["function"]["name"] for call in answer["choices"][0]["message"]["tool_calls"]] == [name]


def test_a_client_that_goes_away_frees_the_model(server: LiveServer) -> None:
    for stream in (True, False):
        connection = server.connection()
        connection.request("POST", CHAT, json.dumps({"messages": HELLO, "stream": stream}))
        if stream:
            connection.getresponse().read(10)
        connection.close()
        assert server.post(CHAT, SHORT).status == 200
