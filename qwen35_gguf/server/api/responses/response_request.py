"""Read a request of the Responses API: its items, and its fields as options of the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.runtime.options import GenerateOptions
from qwen35_gguf.server.api.body_fields import COUNT, FLAG, LIST, OBJECT, TEXT, objects, optional, required, wrong
from qwen35_gguf.server.api.tools import function_tool
from qwen35_gguf.server.api_error import bad_request
from qwen35_gguf.server.effort import thinking_options

SAME = ("temperature", "top_p", "parallel_tool_calls")
# Fields that would change the answer, and that this server does not have.
REFUSED = {
    "background": "this server answers while the client waits; leave it out",
    "conversation": "this server has no stored conversations; use previous_response_id",
    "prompt": "this server has no stored prompts; give instructions and input",
    "top_logprobs": "is not supported here; use /v1/chat/completions",
}


@dataclass(frozen=True)
class ResponseRequest:
    """A request.

    Attributes:
        items: the new ones.
        options: as the library takes them.
        instructions: of this request only.
        previous: the id of the response that this one continues.
        stream: answer in events.
        store: keep the answer for later requests.
        shown: fields that the answer repeats.

    """

    items: list[Any]
    options: GenerateOptions
    instructions: str | None
    previous: str | None
    stream: bool
    store: bool
    shown: dict[str, Any]


def response_request(body: Mapping[str, Any]) -> ResponseRequest:
    """Read a request.

    Raises:
        ApiError, MessageError: a field is missing, has a wrong value, or is not supported.

    """
    for name, reason in REFUSED.items():
        if body.get(name):
            raise bad_request(f"{name}: {reason}", name)
    given = body.get("input")
    previous = optional(body, "previous_response_id", TEXT)
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list) or not (given or previous):
        raise bad_request("input: is neither a text nor a list of items; give one of them", "input")
    options: dict[str, Any] = {name: body[name] for name in SAME if body.get(name) is not None}
    options["max_tokens"] = optional(body, "max_output_tokens", COUNT)
    options |= _reasoning(body) | _form(body) | _tools(body)
    store = optional(body, "store", FLAG)
    instructions = optional(body, "instructions", TEXT)
    return ResponseRequest(
        given,
        GenerateOptions.of(None, options),
        instructions,
        previous,
        optional(body, "stream", FLAG) is True,
        store is not False,
        _shown(body),
    )


def _reasoning(body: Mapping[str, Any]) -> dict[str, Any]:
    effort = (optional(body, "reasoning", OBJECT) or {}).get("effort")
    return {} if effort is None else thinking_options(effort, "reasoning.effort")


def _form(body: Mapping[str, Any]) -> dict[str, Any]:
    text = optional(body, "text", OBJECT) or {}
    form = optional(text, "format", OBJECT, "text.")
    if form is None or form.get("type") == "text":
        return {}
    if form.get("type") == "json_schema":
        required(form, "schema", OBJECT, "text.format.")
        return {
            "response_format": {"type": "json_schema", "json_schema": {k: v for k, v in form.items() if k != "type"}}
        }
    return {"response_format": form}


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    given = objects(optional(body, "tools", LIST) or [], "tools")
    tools = [_tool(tool, f"tools[{number}].") for number, tool in enumerate(given)]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        kind = required(choice, "type", TEXT, "tool_choice.")
        if kind == "allowed_tools":
            names = [required(each, "name", TEXT, "tool_choice.tools.") for each in _allowed(choice)]
            tools = [tool for tool in tools if tool["function"]["name"] in names]
            choice = choice.get("mode", "auto")
        elif kind == "function":
            choice = {"type": "function", "function": {"name": required(choice, "name", TEXT, "tool_choice.")}}
        else:
            raise wrong("tool_choice.type", f"{kind[:40]!r} is not supported; use function or allowed_tools")
    return {"tools": tools or None} | ({} if choice is None else {"tool_choice": choice})


def _allowed(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    return objects(required(choice, "tools", LIST, "tool_choice."), "tool_choice.tools")


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = required(tool, "type", TEXT, where)
    if kind != "function":
        raise wrong(f"{where}type", f"{kind[:40]!r} is not supported; use function")
    name, parameters = required(tool, "name", TEXT, where), optional(tool, "parameters", OBJECT, where)
    strict = optional(tool, "strict", FLAG, where)
    return function_tool(name, optional(tool, "description", TEXT, where), parameters or {}, strict)


def _shown(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a response repeats, with the originals' defaults."""
    reasoning = optional(body, "reasoning", OBJECT) or {}
    tools = [{"strict": None, "parameters": None} | tool for tool in body.get("tools") or ()]
    return {
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": optional(body, "metadata", OBJECT) or {},
        "parallel_tool_calls": body.get("parallel_tool_calls", True) is not False,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "store": body.get("store") is not False,
        "temperature": body.get("temperature"),
        "text": {"format": {"type": "text"}} | (optional(body, "text", OBJECT) or {}),
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": tools,
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "user": body.get("user"),
    }
