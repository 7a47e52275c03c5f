"""Check the tools, calls and results of a request, and give them the form that templates read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_gguf.errors import ToolError
from qwen35_gguf.json_file import printable


def function_of(tool: Any) -> Mapping[str, Any]:
    """Return the function of a tool, which may be given without `{"type": "function", "function": ...}` around it.

    Raises:
        ToolError: it has no name, or is not an object.

    """
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ToolError('tools: each is {"type": "function", "function": {"name": ..., "parameters": {...}}}')
    return function


def check_tools(tools: Any) -> list[dict[str, Any]]:
    """Check the tools of a request, and return each in OpenAI's form, which the template prints as it is.

    Raises:
        ToolError: not a list of functions, a name that is not valid in a tag or occurs twice, or parameters that are
            not an object.

    """
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise ToolError("tools: is not a list; give a list of functions")
    names: set[str] = set()
    checked = []
    for tool in tools:
        function = function_of(tool)
        name = function["name"]
        if re.search(r"[>\s<]", name) or name in names:
            raise ToolError(f"tools: the name {name[:60]!r} occurs twice or has a space or angle bracket; rename it")
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise ToolError(f"tools: the parameters of {printable(name)} are not a JSON schema; give an object")
        names.add(name)
        checked.append(dict(tool) if "function" in tool else {"type": "function", "function": dict(function)})
    return checked


def for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check the calls and results of a history, and decode the arguments, whose members the template reads.

    Raises:
        ToolError: a call without a name, arguments that are not a JSON object, or the result of an unknown call.

    """
    known: set[str] = set()
    checked = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        message = dict(message)
        if message.get("role") == "assistant" and message.get("tool_calls"):
            if not isinstance(message["tool_calls"], list | tuple):
                raise ToolError(f"{where}: tool_calls is not a list; give a list of calls")
            calls = [_decoded(call, where) for call in message["tool_calls"]]
            known.update(call["id"] for call in calls if call.get("id"))
            message["tool_calls"] = calls
        if message.get("role") == "tool":
            call_id = message.get("tool_call_id")
            if call_id is not None and not (isinstance(call_id, str) and call_id in known):
                raise ToolError(
                    f"{where}: the result of an unknown call {str(call_id)[:60]!r}; give the id of a call before it"
                )
            if call_id is None and not any(m.get("tool_calls") for m in messages[:number]):
                raise ToolError(
                    f"{where}: the result of a tool, and no call before it; give the assistant's message, too"
                )
        checked.append(message)
    return checked


def _decoded(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ToolError(f"{where}: a tool call has no function with a name")
    if not isinstance(call.get("id"), str | None):
        raise ToolError(f"{where}: the id of a tool call is not a text; give the one that the call had")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise ToolError(f"{where}: the arguments of {printable(function['name'])} are not JSON") from None
    if not isinstance(arguments if arguments is not None else {}, Mapping):
        raise ToolError(f"{where}: the arguments of {printable(function['name'])} are not a JSON object")
    decoded = {"type": "function", "function": {**function, "arguments": dict(arguments or {})}}
    return {"id": call["id"], **decoded} if call.get("id") else decoded
