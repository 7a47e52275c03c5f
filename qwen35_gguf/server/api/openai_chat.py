"""OpenAI's chat completions: POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qwen35_gguf.runtime.chat.openai_types import CallDelta, ChatCompletion, ChatCompletionChunk, Delta
from qwen35_gguf.runtime.options import GenerateOptions
from qwen35_gguf.server.access import scoped
from qwen35_gguf.server.answering import exchange
from qwen35_gguf.server.api.body_fields import LIST, OBJECT, TEXT, objects, optional, required
from qwen35_gguf.server.api.fields import (
    SAMPLING,
    finish_of,
    flag_of,
    present,
    refuse,
    seed_of,
    usage_wanted,
    with_miss,
)
from qwen35_gguf.server.api_error import bad_request
from qwen35_gguf.server.effort import thinking_options
from qwen35_gguf.server.json_body import read_checked
from qwen35_gguf.server.request_limits import check_messages, check_options
from qwen35_gguf.server.service import Service
from qwen35_gguf.server.streaming import event

SAME = (
    *SAMPLING,
    "max_tokens",
    "max_completion_tokens",
    "n",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "thinking_budget",
    "stop_loops",
    "chat_template_kwargs",
)
# Fields that would change the answer, and that a text model on this machine cannot follow.
REFUSED = {
    "audio": "this model gives text; leave it out",
    "functions": "was replaced by tools; use that",
    "function_call": "was replaced by tool_choice; use that",
    "web_search_options": "this server does not search; leave it out",
}


def routes(service: Service) -> list[Route]:
    """Return the routes of this API."""

    def checked(body: dict[str, Any]) -> tuple[GenerateOptions, bool]:
        check_messages(body.get("messages"), service.settings.limits)
        options, streaming = chat_options(body), flag_of(body, "stream")
        check_options(options, service.settings.limits)
        return options, streaming

    async def chat(request: Request) -> Response:
        body, (options, streaming) = await read_checked(request, service.settings, checked)
        options = scoped(request, options)
        async with exchange(service, request, body.get("model")) as asked:
            if not streaming:
                whole = await asked.whole(asked.model.chat(body["messages"], options))
                return JSONResponse(completion_object(whole, asked.name))
            answer = asked.model.chat(body["messages"], options, stream=True, on_progress=asked.progress)
            return await asked.stream(answer, lambda chunks: _events(chunks, asked.name))

    return [Route("/v1/chat/completions", chat, methods=["POST"])]


def chat_options(body: Mapping[str, Any]) -> GenerateOptions:
    """Turn the fields of a request into options; null is as if a field were left out.

    Raises:
        ApiError: a field has a wrong value, or asks for what there is not.
        MessageError: likewise.

    """
    given = present(body)
    refuse(given, REFUSED)
    if given.get("modalities", ["text"]) != ["text"]:
        raise bad_request('modalities: this model gives text; use ["text"]', "modalities")
    options = {name: given[name] for name in SAME if name in given} | allowed_tools(given)
    if "seed" in given:
        options["seed"] = seed_of(given["seed"])
    if "reasoning_effort" in given:
        options = thinking_options(given["reasoning_effort"]) | options
    options["include_usage"] = usage_wanted(given)
    return GenerateOptions.of(None, options)


def allowed_tools(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tools and the choice of a request that allows some of its tools; nothing for other choices.

    Raises:
        ApiError: the choice is malformed.

    """
    choice = given.get("tool_choice")
    if not isinstance(choice, Mapping) or choice.get("type") != "allowed_tools":
        return {}
    allowed = required(choice, "allowed_tools", OBJECT, "tool_choice.")
    where = "tool_choice.allowed_tools."
    named = objects(required(allowed, "tools", LIST, where), f"{where}tools")
    functions = [required(one, "function", OBJECT, where) for one in named]
    names = [required(one, "name", TEXT, where) for one in functions]
    tools = objects(optional(given, "tools", LIST) or [], "tools")
    found = [one for one in tools if isinstance(one.get("function"), Mapping) and one["function"].get("name") in names]
    return {"tools": found or None, "tool_choice": allowed.get("mode", "auto")}


def completion_object(whole: ChatCompletion, name: str) -> dict[str, Any]:
    """Return a whole answer as the API has it, under the name by which the model was asked for."""
    made = whole.to_dict() | {"model": name}
    made["usage"] = with_miss(made["usage"], whole.timings)
    for choice in made["choices"]:
        choice["message"] = {"refusal": None} | _given(choice["message"], "content")
        choice["finish_reason"] = finish_of(choice["finish_reason"])
        del choice["stop_text"]
        for call in choice["message"].get("tool_calls", ()):
            del call["index"]
    return made


def chunk_object(chunk: ChatCompletionChunk, name: str) -> dict[str, Any]:
    """Return a piece of an answer as the API has it; by hand, since there is one for each token."""
    made: dict[str, Any] = {
        "id": chunk.id,
        "object": chunk.object,
        "created": chunk.created,
        "model": name,
        "choices": [
            {
                "index": choice.index,
                "delta": delta_object(choice.delta),
                "finish_reason": finish_of(choice.finish_reason),
                "logprobs": None if choice.logprobs is None else asdict(choice.logprobs),
            }
            for choice in chunk.choices
        ],
    }
    if chunk.usage is not None:
        made["usage"] = with_miss(asdict(chunk.usage), chunk.timings)
    if chunk.timings is not None:
        made["timings"] = asdict(chunk.timings)
    return made


def delta_object(delta: Delta) -> dict[str, Any]:
    """Return what a piece adds to a message."""
    made: dict[str, Any] = {
        "role": delta.role,
        "content": delta.content,
        "reasoning_content": delta.reasoning_content,
        "tool_calls": delta.tool_calls and [call_object(piece) for piece in delta.tool_calls],
    }
    return _given(made)


def call_object(piece: CallDelta) -> dict[str, Any]:
    """Return a piece of a tool call."""
    made = asdict(piece)
    return _given(made | {"function": _given(made["function"])})


def _given(fields: Mapping[str, Any], *kept: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None or name in kept}


async def _events(chunks: AsyncIterator[ChatCompletionChunk], name: str) -> AsyncGenerator[bytes, None]:
    async for chunk in chunks:
        yield event(chunk_object(chunk, name))
    yield event("[DONE]")
