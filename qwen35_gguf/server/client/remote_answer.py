"""Read what another server sends; it may be broken or hostile: lengths have bounds, and types are checked."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

from qwen35_gguf.errors import ServerError
from qwen35_gguf.json_file import COUNT, LIST, NUMBER, TEXT, JsonObject, parse_json, shown
from qwen35_gguf.runtime.chat.openai_types import (
    CallDelta,
    ChatCompletionChunk,
    ChunkChoice,
    Delta,
    FunctionDelta,
    Timings,
)

LONGEST = 16 << 20  # bytes of a line of a stream, or of a body; the arguments of a tool may be long
LONGEST_MESSAGE = 1000  # characters of what a server says is wrong
_ADVICE = "check the URL: does the server have OpenAI's API?"


def read_body(response: http.client.HTTPResponse, where: str) -> JsonObject:
    """Read a body that is an object. Raises ServerError: it is not one, or is too long."""
    return _parse(_bounded(response.read(LONGEST + 1), where), where)


def read_lines(response: http.client.HTTPResponse, where: str) -> Iterator[bytes]:
    """Yield the lines of a stream. Raises ServerError: one is too long."""
    while line := response.readline(LONGEST + 1):
        yield _bounded(line, where)


def read_event(text: bytes, where: str) -> JsonObject:
    """Parse an event of a stream. Raises ServerError: it is not an object, or says what is wrong."""
    event = _parse(text, where)
    if "error" in event:
        raise ServerError(f"{where}: {error_message(event)}")
    return event


def error_message(body: JsonObject) -> str:
    """Return what a body says is wrong: {"error": {"message": TEXT}} as OpenAI has it, or {"error": TEXT}."""
    given = body.values.get("error")
    given = given.get("message", given) if isinstance(given, dict) else given
    message = given if isinstance(given, str) else shown(given)
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}..."


def model_names(body: JsonObject) -> list[str]:
    """Return the names of the models in a body of /v1/models. Raises ServerError: it has no such list."""
    body.need("data", LIST)
    return [one.need("id", TEXT) for one in body.sections("data")]


def chunk_of(event: JsonObject) -> ChatCompletionChunk:
    """Return an event as a piece of an answer. Raises ServerError: an entry has another type.

    One without choices, as OpenAI's with the usage at the end, is a piece that adds nothing.
    """
    event.need("choices", LIST)
    choices = [
        ChunkChoice(_delta(one.section("delta")), cast("Any", one.get("finish_reason", TEXT)))
        for one in event.sections("choices")
    ]
    timings = _timings(event.section("timings")) if "timings" in event else None
    names = event.get("model", TEXT, ""), event.get("id", TEXT, "")
    return ChatCompletionChunk(
        names[0], choices or [ChunkChoice(Delta())], names[1], int(event.get("created", NUMBER, 0)), timings=timings
    )


def _bounded(data: bytes, where: str) -> bytes:
    if len(data) > LONGEST:
        raise ServerError(f"{where}: sends more than {LONGEST >> 20} MiB in one piece; {_ADVICE}")
    return data


def _parse(text: bytes, where: str) -> JsonObject:
    return parse_json(text, where, ServerError, _ADVICE)


def _delta(given: JsonObject) -> Delta:
    calls = [_call(one) for one in given.sections("tool_calls")]
    content, reasoning = (given.get(key, TEXT) for key in ("content", "reasoning_content"))
    return Delta(content, reasoning, calls or None, cast("Any", given.get("role", TEXT)))


def _call(given: JsonObject) -> CallDelta:
    function = given.section("function")
    piece = FunctionDelta(function.get("arguments", TEXT, ""), function.get("name", TEXT))
    return CallDelta(given.get("index", COUNT, 0), piece, given.get("id", TEXT), cast("Any", given.get("type", TEXT)))


def _timings(given: JsonObject) -> Timings:
    values: dict[str, Any] = {}
    for field in fields(Timings):
        kind = TEXT if isinstance(field.default, str) else NUMBER if isinstance(field.default, float) else COUNT
        if (value := given.get(field.name, kind)) is not None:
            values[field.name] = value
    return Timings(**values)
