"""Convert tool calls between Qwen3.5's text and OpenAI's objects, also while the text is still coming.

The form (of the published chat template; other white space between the tags is accepted, too):

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

A value is text without a type; the tool's JSON schema tells its type. What looks like a call but is not valid stays
text, unchanged. A value that itself contains `</parameter>` followed by `</function>` is taken for the end. The tags of
a call are tokens, which `tags` marks; the inner ones are text.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.architecture.tags import END_TOOL_CALL, TOOL_CALL
from qwen35_gguf.errors import ToolError
from qwen35_gguf.runtime.chat.tags import MARKS, marked, spelled

OPEN, CLOSE = MARKS[TOOL_CALL], MARKS[END_TOOL_CALL]
Schema = Mapping[str, Any]

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>(?=\s*(?:<parameter=[^>\n]+>|\Z))", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d{1,400}")
_MAX_REFERENCES = 16


@dataclass(frozen=True)
class ToolCall:
    """One complete call: `arguments` are converted by the tool's schema."""

    id: str
    name: str
    arguments: dict[str, Any]

    def openai(self, index: int | None = None) -> dict[str, Any]:
        """Return OpenAI's `tool_calls` object; with an index, that of a streamed delta."""
        function = {"name": self.name, "arguments": json.dumps(self.arguments, ensure_ascii=False)}
        call = {"id": self.id, "type": "function", "function": function}
        return call if index is None else {"index": index, **call}


def new_id() -> str:
    """Make the id of a call."""
    return f"call_{uuid.uuid4().hex[:24]}"


class ToolCallParser:
    """Separates content from calls in a text with marks that comes in pieces.

    `feed` returns what is certain so far, `finish` the rest: text that is content (`str`) and complete `ToolCall`s, in
    order. White space before a call and after the last one is dropped. How
    the text is split into pieces does not change the whole content or the calls.

    Feed it the text after `</think>` only.
    """

    def __init__(self, tools: Iterable[Mapping[str, Any]] | None = None, make_id: Callable[[], str] = new_id) -> None:
        """Take the tools of the request, in OpenAI's form; an unknown function is called with strings."""
        self._schemas = {tool["name"]: tool.get("parameters") or {} for tool in map(_function_of, tools or ())}
        self._make_id = make_id
        self._pending = ""
        self._looked = 0  # no closing tag that starts before here is of interest
        self._after_call = False

    def feed(self, text: str) -> list[str | ToolCall]:
        """Take the next piece of text."""
        self._pending += text
        return self._advance(final=False)

    def finish(self, *, truncated: bool = False) -> list[str | ToolCall]:
        """Return the rest, since no more text comes; a call that lacks only `</tool_call>` is accepted.

        The beginning of a call is dropped if the text was truncated, since it would have become one.
        """
        if truncated and (start := self._pending.rfind(OPEN)) >= 0 and CLOSE not in self._pending[start:]:
            length, call = self._call(start + len(OPEN), final=True)
            if call is None or length is None:
                self._pending = self._pending[:start].rstrip()
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> list[str | ToolCall]:
        found: list[str | ToolCall] = []
        while True:
            start = self._pending.find(OPEN)
            if start < 0:
                break
            before = self._pending[:start]
            if before.strip():  # certain, whatever the call turns out to be; its trailing space is not
                kept = before.rstrip()
                self._content(found, kept)
                self._pending = self._pending[len(kept) :]
                continue
            length, call = self._call(start + len(OPEN), final=final)
            if length is None:
                return found
            if call is not None:
                found.append(call)
                self._after_call = True
            else:
                self._content(found, self._pending[:length])
            self._pending, self._looked = self._pending[length:], 0
        safe = len(self._pending) if final else len(self._pending.rstrip())  # space before a call is dropped
        text, self._pending = self._pending[:safe], self._pending[safe:]
        if not (final and self._after_call and not text.strip()):
            self._content(found, text)
        return found

    def _content(self, found: list[str | ToolCall], text: str) -> None:
        if text:
            found.append(text)
            self._after_call = False

    def _call(self, body: int, *, final: bool) -> tuple[int | None, ToolCall | None]:
        """Look for the end of the call whose body starts at `body`: where it ends (None: not there yet), and the call.

        Without a call, the end is that of the tag which is certainly only text; a call may follow inside.
        """
        at = max(body, self._looked)
        while (end := self._pending.find(CLOSE, at)) >= 0:
            inside = self._pending[body:end]
            call = self._parse(inside)
            if call is not None:
                return end + len(CLOSE), call
            if inside.rfind("<parameter=") <= inside.rfind("</parameter>"):
                return body, None
            at = end + len(CLOSE)  # inside of a value, so far
        if final:
            call = self._parse(self._pending[body:])
            return (len(self._pending), call) if call is not None else (body, None)
        self._looked = max(at, len(self._pending))
        return None, None

    def _parse(self, body: str) -> ToolCall | None:
        function = _FUNCTION.fullmatch(body)
        if function is None:
            return None
        name, rest = spelled(function[1]).strip(), function[2]
        schema = self._schemas.get(name, {})
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        arguments: dict[str, Any] = {}
        at = 0
        while (match := _PARAMETER.match(rest, at)) is not None:
            key = spelled(match[1]).strip()
            if key in arguments:
                return None
            kind = properties.get(key) if isinstance(properties, Mapping) else None
            arguments[key] = convert(spelled(match[2]), kind, schema)
            at = match.end()
        return ToolCall(self._make_id(), name, arguments) if name and not rest[at:].strip() else None


def parse(
    text: str, tools: Iterable[Mapping[str, Any]] | None = None, make_id: Callable[[], str] = new_id
) -> tuple[str, list[ToolCall]]:
    """Separate a whole text, in which the tags are spelled, into content and calls; see `ToolCallParser`."""
    parser = ToolCallParser(tools, make_id)
    found = parser.feed(marked(text)) + parser.finish()
    calls = [item for item in found if isinstance(item, ToolCall)]
    return spelled("".join(item for item in found if isinstance(item, str))), calls


# ---- types of arguments ------------------------------------------------------------------------------------------


def convert(text: str, schema: Any, root: Any = None) -> Any:
    """Convert a parameter's text to the type of its JSON schema; it stays text where it does not fit.

    Args:
        text: between the tags.
        schema: of the parameter; None when it is not known.
        root: the schema in which `$ref` looks for `$defs`.

    """
    schema = _dereference(schema, root)
    members = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(members, list):
        for member in members:
            if text == member or (not isinstance(member, str) and text.strip() in _spellings(member)):
                return member
    kinds = _kinds(schema, root)
    for kind in ("null", "boolean", "integer", "number", "object", "array"):
        if kind in kinds:
            found, value = _as(kind, text.strip())
            if found:
                return value
    if not kinds and text.strip()[:1] in ("{", "["):
        found, value = _as("object" if text.strip()[0] == "{" else "array", text.strip())
        return value if found else text
    return text


def _spellings(value: Any) -> tuple[str, str]:
    return json.dumps(value), str(value)  # the template writes Python's True, others write true


def _dereference(schema: Any, root: Any) -> Mapping[str, Any]:
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        schema = root
        for step in reference[2:].split("/"):
            schema = schema.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(schema, Mapping) else None
    return {}


def _kinds(schema: Mapping[str, Any], root: Any, depth: int = 0) -> set[str]:
    """Return all JSON types that a schema allows at its top; none if it does not restrict them."""
    kind = schema.get("type")
    kinds = (
        {kind}
        if isinstance(kind, str)
        else {k for k in kind if isinstance(k, str)}
        if isinstance(kind, list)
        else set()
    )
    if schema.get("nullable") is True:
        kinds.add("null")
    if depth < _MAX_REFERENCES:
        for key in ("anyOf", "oneOf", "allOf"):
            for part in schema.get(key) or ():
                kinds |= _kinds(_dereference(part, root), root, depth + 1)
    if not kinds:
        kinds = {"object"} if "properties" in schema else {"array"} if "items" in schema else set()
    return kinds


def _as(kind: str, text: str) -> tuple[bool, Any]:
    """Read text as one JSON type: return whether it is valid, and the value."""
    if kind == "null":
        return text in ("null", "None"), None
    if kind == "boolean":
        return text in ("true", "True", "false", "False"), text in ("true", "True")
    if kind in ("integer", "number"):
        if _INTEGER.fullmatch(text):
            return True, int(text)
        try:
            value = math.nan if "_" in text else float(text)
        except ValueError:
            return False, None
        if kind == "integer":
            return value.is_integer(), int(value) if value.is_integer() else None
        return math.isfinite(value), value
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None
    return isinstance(value, dict if kind == "object" else list), value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# ---- messages and tools of a request -----------------------------------------------------------------------------


def _function_of(tool: Any) -> Mapping[str, Any]:
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
        function = _function_of(tool)
        name = function["name"]
        if re.search(r"[>\s<]", name) or name in names:
            raise ToolError(f"tools: the name {name[:60]!r} occurs twice or has a space or angle bracket; rename it")
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise ToolError(f"tools: the parameters of {name} are not a JSON schema; give an object")
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
            raise ToolError(f"{where}: the arguments of {function['name'][:60]} are not JSON") from None
    if not isinstance(arguments if arguments is not None else {}, Mapping):
        raise ToolError(f"{where}: the arguments of {function['name'][:60]} are not a JSON object")
    decoded = {"type": "function", "function": {**function, "arguments": dict(arguments or {})}}
    return {"id": call["id"], **decoded} if call.get("id") else decoded
