"""Bodies of requests of every API, and the parser of what models answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

from fuzz.target import Target
from qwen35_gguf.architecture.tags import TAGS
from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.chat import template
from qwen35_gguf.runtime.chat.output_parser import ReplyParser
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools

PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
TYPED = {
    "type": "object",
    "$defs": {"d": {"enum": ["x", True, None, 1.5]}, "e": {"$ref": "#/$defs/e"}},
    "properties": {
        "a": {}, "i": {"type": "integer"}, "n": {"type": ["number", "null"]},
        "b": {"type": "boolean", "nullable": True},
        "o": {"properties": {}}, "l": {"items": {}}, "d": {"$ref": "#/$defs/d"}, "c": {"const": {"x": 1}},
        "u": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/d"}, {"type": "string"}]}, "e": {"$ref": "#/$defs/e"},
    },
}  # fmt: skip
TYPED_TOOL = {"type": "function", "function": {"name": "g", "parameters": TYPED}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TURNS = [
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": PIXEL}}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "x"},
]
BODIES: dict[str, Any] = {
    "chat": {
        "messages": TURNS, "max_tokens": 1, "temperature": 0.5, "seed": 3, "n": 1, "stop": ["a"], "tools": [TOOL],
        "logit_bias": {"5": 1}, "tool_choice": "auto", "reasoning_effort": "low", "stream_options": {},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "chat_template_kwargs": {"enable_thinking": True},
    },
    "text": {"prompt": ["Hi", "Ho"], "max_tokens": 1, "stop": ["x"], "logit_bias": {"5": 1}, "n": 1, "echo": True},
    "response": {
        "instructions": "x", "max_output_tokens": 1, "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "input": [
            {"role": "user", "content": [
                {"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": PIXEL},
            ]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Well"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}, "reasoning": {"effort": "low"},
    },
    "message": {
        "max_tokens": 2000, "system": [{"type": "text", "text": "x"}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [
            {"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
            ]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "x"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"},
    },
}  # fmt: skip


def read_body(data: bytes) -> None:
    """Read a body as one of the APIs does: the first byte chooses which."""
    from qwen35_gguf.server.api_error import ApiError

    try:
        _read_body(data)
    except ApiError as error:
        if error.status >= 500:
            raise
        raise MessageError(error.message) from None


def _read_body(data: bytes) -> None:
    from qwen35_gguf.server.api.anthropic.message_request import message_request
    from qwen35_gguf.server.api.openai_chat import chat_options
    from qwen35_gguf.server.api.openai_completions import read_request
    from qwen35_gguf.server.api.responses.input_items import library_messages
    from qwen35_gguf.server.api.responses.response_request import response_request
    from qwen35_gguf.server.api.tools import with_enforceable
    from qwen35_gguf.server.request_limits import check_messages, check_options
    from qwen35_gguf.server.settings import RequestLimits

    limits = RequestLimits()
    body = _body(data[1:])

    def chat() -> tuple[Any, Any]:
        return body.get("messages"), chat_options(body)

    def response() -> tuple[Any, Any]:
        wanted = response_request(body)
        return library_messages(wanted.instructions, wanted.items), wanted.options

    def message() -> tuple[Any, Any]:
        wanted = message_request(body)
        return wanted.messages, wanted.options

    def text() -> tuple[Any, Any]:
        return [{"role": "user", "content": "x"}], read_request(body, limits).options

    readers: list[Callable[[], tuple[Any, Any]]] = [chat, text, response, message]
    messages, options = readers[data[0] % len(readers) if data else 0]()
    check_messages(messages, limits)
    check_options(options, limits)
    template.check_messages(messages)
    if options.tools:
        check_tools(options.tools if data[0] % len(readers) < 2 else with_enforceable(options).tools)


def _body(data: bytes) -> Mapping[str, Any]:
    """Read a body as it comes over a connection, in two pieces."""
    from starlette.requests import Request

    from qwen35_gguf.server import json_body
    from qwen35_gguf.server.settings import RequestLimits, ServerSettings

    pieces = iter(((data[: len(data) // 2], True), (data[len(data) // 2 :], False)))

    async def receive() -> dict[str, Any]:
        piece, more = next(pieces)
        return {"type": "http.request", "body": piece, "more_body": more}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    if len(data) % 4:
        return asyncio.run(json_body.read_object(request, ServerSettings()))
    # Of each fourth length as a large body: in a thread, within limits that it may exceed.
    limits = RequestLimits(body_values=40, body_containers=20, body_escapes=20, text_bytes=64)
    with mock.patch.object(json_body, "LARGE", 64):
        return asyncio.run(json_body.read_object(request, ServerSettings(limits=limits, log_requests=True)))


def body_seeds() -> list[bytes]:
    """A full request of each API, and what is not an object of texts, or too much."""
    odd = (b"[1]", b'{"a": "\\ud800"}', b'{"a": [{"\\ud83d": 1}]}', b'{"a": 1e999}', b'{"a": NaN}', b"1", b"\xff", b"")
    many = (
        b'{"a": [' + b"1," * 60 + b"1]}",
        b"[" * 60,
        b'{"a": "' + b"\\n" * 60 + b'"}',
        b'{"a": "' + b"b" * 200 + b'"}',
    )
    padded = [one + b" " * (-len(one) % 4) for one in many]  # of a length that is large
    requests = [bytes([number]) + json.dumps(body).encode() for number, body in enumerate(BODIES.values())]
    return [*requests, *(b"\0" + one for one in (*odd, *padded))]


def parse_answer(data: bytes) -> None:
    """Parse an answer whole and in pieces; both must find the same content and calls."""
    spoken = data.decode("utf-8", errors="ignore").encode()
    chance = random.Random(len(data))
    tags = dict(enumerate(TAGS)) if len(data) % 2 else {}
    messages = []
    for pieces in (1, 1 + len(spoken) // 3):
        parser = ReplyParser(tags, inside=bool(len(data) & 2), tools=[TOOL, TYPED_TOOL], stop=("STOP",))
        cuts = sorted({0, len(spoken), *(chance.randrange(len(spoken) + 1) for _ in range(pieces - 1))})
        for start, stop in itertools.pairwise(cuts):
            _speak(parser, spoken[start:stop], tags)
        parser.finish()
        found = parser.message()
        calls = [(call.function.name, call.function.arguments) for call in found.tool_calls or ()]
        messages.append((found.content, found.reasoning_content, calls))
    if not tags:  # tags that are tokens are not split
        assert messages[0] == messages[1], messages


def _speak(parser: ReplyParser, piece: bytes, tags: Mapping[int, str]) -> None:
    """Give a piece to a parser; the tags in it are tokens where there are such."""
    rest = piece
    while tags and (found := [(at, n, tag) for n, tag in tags.items() if (at := rest.find(tag.encode())) >= 0]):
        at, number, tag = min(found)
        parser.feed(-1, rest[:at])
        parser.feed(number, tag.encode())
        rest = rest[at + len(tag) :]
    parser.feed(-1, rest)


def answer_seeds() -> list[bytes]:
    """Thinking, text and calls."""
    call = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
    return [
        f"Well.\n</think>\n\nOK {call}\n{call} STOP".encode(),
        f"<think>x</think>y{call}".encode(),
        call[:50].encode(),
        _typed_call(i="12", n="1.5e3", b="True", o='{"a": 1}', l="[1, 2]", d="None", c='{"x": 1}', u="7", e="x"),
        _typed_call(i="3.0", n="null", b="yes", o="[1]", l="{", d="1.5", c="{'x': 1}", u="seven", a='{"a": [1e999]}'),
        _typed_call(i="9" * 400, n="nan", b=" false ", o='{"a": NaN}', l="", d="x", a="[1"),
    ]


def _typed_call(**values: str) -> bytes:
    parameters = "".join(f"<parameter={name}>\n{text}\n</parameter>\n" for name, text in values.items())
    return f"<tool_call>\n<function=g>\n{parameters}</function>\n</tool_call>".encode()


API = "qwen35_gguf.server.api"
TARGETS = (
    Target(
        "body",
        read_body,
        body_seeds,
        (
            "qwen35_gguf.server.json_body",
            "qwen35_gguf.server.request_limits",
            f"{API}.body_fields",
            f"{API}.fields",
            f"{API}.anthropic.message_request",
            f"{API}.anthropic.message_blocks",
            f"{API}.responses.response_request",
            f"{API}.responses.input_items",
        ),
        tuple(f'"{key}"' for body in BODIES.values() for key in body),
        needs=("starlette",),
    ),
    Target(
        "answer",
        parse_answer,
        answer_seeds,
        (
            "qwen35_gguf.runtime.chat.tool_calls.call_parser",
            "qwen35_gguf.runtime.chat.tool_calls.argument_types",
            "qwen35_gguf.runtime.chat.output_parser",
            "qwen35_gguf.runtime.chat.tags",
        ),
        (
            *TAGS,
            "<function=f>",
            "<function=g>",
            "</function>",
            "<parameter=a>",
            "</parameter>",
            "<function=",
            ">",
            "STOP",
        ),
        longest=2048,
    ),
)
