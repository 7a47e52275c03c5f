"""Read a request of the Messages API: its messages, and its fields as options of the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.runtime.options import GenerateOptions
from qwen35_gguf.server.api.anthropic.message_blocks import library_messages
from qwen35_gguf.server.api.body_fields import (
    COUNT,
    FLAG,
    LIST,
    OBJECT,
    TEXT,
    TEXTS,
    objects,
    optional,
    required,
    wrong,
)
from qwen35_gguf.server.api.tools import function_tool
from qwen35_gguf.server.api_error import bad_request
from qwen35_gguf.server.effort import thinking_options

SAME = ("temperature", "top_p", "top_k")
THINKING = ("enabled", "adaptive", "between_tools", "disabled")
CHOICES: dict[str, str] = {"auto": "auto", "any": "required", "none": "none"}
# Fields that would change the answer, and that need servers elsewhere.
REFUSED = {
    "container": "this server has no containers; leave it out",
    "mcp_servers": "this server calls no other servers; give tools",
}


@dataclass(frozen=True)
class MessageRequest:
    """A request.

    Attributes:
        messages: as the library takes them.
        options: likewise.
        stream: answer in events.
        show_thinking: give the text of the thinking.

    """

    messages: list[dict[str, Any]]
    options: GenerateOptions
    stream: bool = False
    show_thinking: bool = True


def message_request(body: Mapping[str, Any], *, counting: bool = False) -> MessageRequest:
    """Read a request, or one that only counts its tokens.

    Raises:
        ApiError, MessageError: a field is missing, has a wrong value, or is not supported.

    """
    for name, reason in REFUSED.items():
        if body.get(name):
            raise bad_request(f"{name}: {reason}", name)
    limit = None if counting else required(body, "max_tokens", COUNT)
    options: dict[str, Any] = {name: body[name] for name in SAME if body.get(name) is not None}
    options["max_tokens"] = limit
    options["stop"] = optional(body, "stop_sequences", TEXTS) or ()
    options |= _thinking(body, limit) | _tools(body)
    thinking = optional(body, "thinking", OBJECT) or {}
    messages = library_messages(body.get("system"), required(body, "messages", LIST))
    return MessageRequest(
        messages,
        GenerateOptions.of(None, options),
        optional(body, "stream", FLAG) is True,
        thinking.get("display") != "omitted",
    )


def _thinking(body: Mapping[str, Any], limit: int | None) -> dict[str, Any]:
    """Read how long the model thinks: not at all, unless the request asks for it; and the form of the answer."""
    found: dict[str, Any] = {"thinking": False}
    thinking = optional(body, "thinking", OBJECT)
    output = optional(body, "output_config", OBJECT) or {}
    if thinking is not None:
        kind = required(thinking, "type", TEXT, "thinking.")
        if kind not in THINKING:
            raise wrong("thinking.type", f"{kind[:40]!r} is not {', '.join(THINKING)}")
        if kind != "disabled":
            found = {"thinking": True}
            if output.get("effort") is not None:
                found |= thinking_options(output["effort"], "output_config.effort")
        if kind == "enabled":
            budget = required(thinking, "budget_tokens", COUNT, "thinking.")
            if limit is not None and budget >= limit:
                raise wrong("thinking.budget_tokens", f"{budget:,} is not less than max_tokens; give less")
            found["thinking_budget"] = budget
    form = optional(output, "format", OBJECT, "output_config.")
    if form is not None:
        if form.get("type") != "json_schema":
            raise wrong("output_config.format.type", "is not json_schema")
        schema = required(form, "schema", OBJECT, "output_config.format.")
        found["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return found


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    given = objects(optional(body, "tools", LIST) or [], "tools")
    found: dict[str, Any] = {"tools": [_tool(tool, f"tools[{number}].") for number, tool in enumerate(given)] or None}
    choice = optional(body, "tool_choice", OBJECT)
    if choice is None:
        return found
    kind = required(choice, "type", TEXT, "tool_choice.")
    if kind == "tool":
        name = required(choice, "name", TEXT, "tool_choice.")
        found["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind in CHOICES:
        found["tool_choice"] = CHOICES[kind]
    else:
        raise wrong("tool_choice.type", f"{kind[:40]!r} is not auto, any, tool or none")
    if optional(choice, "disable_parallel_tool_use", FLAG, "tool_choice."):
        found["parallel_tool_calls"] = False
    return found


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = optional(tool, "type", TEXT, where)
    if kind not in (None, "custom"):
        raise wrong(f"{where}type", f"{kind[:60]!r} is not supported; describe the tool with name and input_schema")
    name = required(tool, "name", TEXT, where)
    schema = required(tool, "input_schema", OBJECT, where)
    return function_tool(
        name, optional(tool, "description", TEXT, where), schema, optional(tool, "strict", FLAG, where)
    )
