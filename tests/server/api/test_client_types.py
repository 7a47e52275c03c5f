"""Everything that is sent has the types of the originals' clients: checked by their classes, not only read by them."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from inputs.chat_requests import HELLO, TOOL
from inputs.live_server import LiveServer
from qwen35_gguf.runtime.chat.openai_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    Message,
    Timings,
    Usage,
)
from qwen35_gguf.server.api.openai_chat import chunk_object, completion_object

pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
openai = pytest.importorskip("openai.types", reason="openai is not installed")
anthropic = pytest.importorskip("anthropic.types", reason="anthropic is not installed")

chat_types = pytest.importorskip("openai.types.chat", reason="openai is not installed")
response_types = pytest.importorskip("openai.types.responses", reason="openai is not installed")

CALL = {"tools": [TOOL], "tool_choice": "required", "reasoning_effort": "none", "temperature": 0, "max_tokens": 200}
THOUGHT = {"messages": HELLO, "temperature": 0, "max_tokens": 120}
CHATS: list[dict[str, Any]] = [
    THOUGHT,
    THOUGHT | {"max_tokens": 3, "n": 2, "logprobs": True, "top_logprobs": 2, "reasoning_effort": "none"},
    {"messages": HELLO, **CALL},
]
TEXTS: list[dict[str, Any]] = [{"prompt": "Once", "max_tokens": 4}, {"prompt": ["One", "Two"], "echo": True, "n": 2}]
FUNCTION = {"type": "function", **TOOL["function"]}
RESPONSES: list[dict[str, Any]] = [
    {"input": "Hello", "max_output_tokens": 3, "reasoning": {"effort": "none"}},
    {"input": "Hello", "max_output_tokens": 200, "temperature": 0},
    {"input": "Hello", "tools": [FUNCTION], "tool_choice": "required", "reasoning": {"effort": "none"}},
]
INPUT = {"name": "weather", "input_schema": TOOL["function"]["parameters"]}
MESSAGES: list[dict[str, Any]] = [
    {"messages": HELLO, "max_tokens": 3},
    {"messages": HELLO, "max_tokens": 200, "temperature": 0, "thinking": {"type": "adaptive"}},
    {"messages": HELLO, "max_tokens": 200, "tools": [INPUT], "tool_choice": {"type": "any"}},
]


@functools.cache
def adapter(kind: Any) -> Any:
    """Return what validates a type: of a union of all events it takes seconds to make."""
    return pydantic.TypeAdapter(kind)


def check(kind: Any, value: Any) -> None:
    """Raise an error unless a value has a type."""
    adapter(kind).validate_python(value)


def events(server: LiveServer, path: str, body: dict[str, Any]) -> list[Any]:
    found = server.post(path, body | {"stream": True})
    assert found.status == 200, found.body
    return [each for each in found.events if each != "[DONE]"]


def whole(server: LiveServer, path: str, body: dict[str, Any]) -> Any:
    found = server.post(path, body)
    assert found.status == 200, found.body
    return found.json


@pytest.mark.parametrize("body", CHATS)
def test_chats(server: LiveServer, body: dict[str, Any]) -> None:
    check(chat_types.ChatCompletion, whole(server, "/v1/chat/completions", body))
    for each in events(server, "/v1/chat/completions", body | {"stream_options": {"include_usage": True}}):
        check(chat_types.ChatCompletionChunk, each)


def test_a_chat_that_ends_because_it_repeats_itself() -> None:
    """The library has a reason of its own for that, the API has none."""
    usage, timings = Usage(1, 1, 2, {"cached_tokens": 0}, {"reasoning_tokens": 0}), Timings(loop="answer")
    whole = ChatCompletion("demo", [Choice(Message("a"), "loop", stop_text=None)], usage, timings)
    check(chat_types.ChatCompletion, completion_object(whole, "demo"))
    chunk = ChatCompletionChunk("demo", [ChunkChoice(Delta("a"), "loop")], "chatcmpl-1", 1)
    check(chat_types.ChatCompletionChunk, chunk_object(chunk, "demo"))


@pytest.mark.parametrize("body", TEXTS)
def test_completions(server: LiveServer, body: dict[str, Any]) -> None:
    check(openai.Completion, whole(server, "/v1/completions", body))
    for each in events(server, "/v1/completions", body):
        assert each["choices"][0]["finish_reason"] in ("stop", "length", None)  # the type has no null there
        each["choices"][0]["finish_reason"] = "stop"
        check(openai.Completion, each)


@pytest.mark.parametrize("body", RESPONSES)
def test_responses(server: LiveServer, body: dict[str, Any]) -> None:
    check(response_types.Response, whole(server, "/v1/responses", body))
    for each in events(server, "/v1/responses", body):
        check(response_types.ResponseStreamEvent, each)


@pytest.mark.parametrize("body", MESSAGES)
def test_messages(server: LiveServer, body: dict[str, Any]) -> None:
    check(anthropic.Message, whole(server, "/v1/messages", body))
    for each in events(server, "/v1/messages", body):
        if each["type"] != "ping":
            check(anthropic.RawMessageStreamEvent, each)
    body = {name: value for name, value in body.items() if name != "max_tokens"}
    check(anthropic.MessageTokensCount, whole(server, "/v1/messages/count_tokens", body))


def test_models(server: LiveServer) -> None:
    """The list has the forms of both clients."""
    models = server.get("/v1/models").json
    for one in models["data"]:
        check(openai.Model, one)
        check(anthropic.ModelInfo, one)


def test_errors(server: LiveServer) -> None:
    check(anthropic.ErrorResponse, server.post("/v1/messages", {"messages": HELLO}).json)
    check(openai.ErrorObject, server.post("/v1/chat/completions", {}).json["error"])
