"""Separate content from tool calls while the text is still coming, and give a call's arguments in pieces of JSON.

The form (of the published chat template; other white space between the tags is accepted, too):

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

A value is text without a type; the tool's JSON schema tells its type. What looks like a call but is not valid stays
text, unchanged, as long as none of its arguments was given. A value ends at the first `</parameter>` that another
parameter follows, or `</function>` and the end of the call. The tags of a call are tokens, which `tags` marks; the
inner ones are text.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from qwen35_gguf.architecture.tags import END_TOOL_CALL, TOOL_CALL
from qwen35_gguf.runtime.chat.openai_types import Call, CallDelta, FunctionDelta, join_calls
from qwen35_gguf.runtime.chat.tags import MARKS, marked, spelled
from qwen35_gguf.runtime.chat.tool_calls.argument_types import convert, is_text
from qwen35_gguf.runtime.chat.tool_calls.checks import function_of

OPEN, CLOSE = MARKS[TOOL_CALL], MARKS[END_TOOL_CALL]
END = "</parameter>"
LOOKED_AT = 64  # characters at the beginning of a value, by which its type is known


def _beginnings(literal: str, rest: str = "") -> str:
    """Return the expression of all beginnings of a literal, and of what comes after it."""
    for letter in reversed(literal):
        rest = f"(?:{re.escape(letter)}{rest})?"
    return rest


_PARAMETER, _NO_MORE = r"\s*<parameter=([^>\n]+)>", r"\s*</function>\s*"
_HEAD_OF = r"\s*<function=([^>\n]+)>(?:{})"
# What follows a value; by whether the text is at its end, where a call that lacks only `</tool_call>` is accepted.
_NEXT = {
    end: re.compile(f"{_PARAMETER}|{_NO_MORE}{last}") for end, last in ((False, CLOSE), (True, rf"(?:{CLOSE}|\Z)"))
}
_HEAD = {end: re.compile(_HEAD_OF.format(following.pattern)) for end, following in _NEXT.items()}
# What text may become these.
_PARAMETER_BEGUN, _NO_MORE_BEGUN = _beginnings("<parameter=", r"[^>\n]*"), _beginnings("</function>", r"\s*")
_NEXT_BEGUN = re.compile(rf"\s*(?:{_PARAMETER_BEGUN}|{_NO_MORE_BEGUN})")
_HEAD_BEGUN = re.compile(r"\s*" + _beginnings("<function=", rf"(?:[^>\n]+(?:>{_NEXT_BEGUN.pattern})?)?"))
_END_BEGUN = re.compile(rf"\n?{_beginnings(END)}\Z")


def new_id() -> str:
    """Make the id of a call."""
    return f"call_{uuid.uuid4().hex[:24]}"


class ToolCallParser:
    """Separates content from calls in a text with marks that comes in pieces.

    `feed` returns what is certain so far, `finish` the rest, in order: text that is content (`str`), and pieces of
    calls (`CallDelta`): first a call's id and name, as soon as one of its arguments is certain, then its arguments.
    White space before a call and after the last one is dropped. How the text is split does not change the whole content
    or the calls. The arguments of a call that does not end are not complete, and so not valid JSON.

    Feed it the text after `</think>` only.
    """

    def __init__(self, tools: Iterable[Mapping[str, Any]] | None = None, make_id: Callable[[], str] = new_id) -> None:
        """Take the tools of the request, in OpenAI's form; an unknown function is called with strings."""
        self._schemas = {tool["name"]: tool.get("parameters") or {} for tool in map(function_of, tools or ())}
        self._make_id = make_id
        self._pending = ""  # text that may be the space before a call
        self._call: _CallReader | None = None  # the one that is read
        self._count = 0
        self._after_call = False

    def feed(self, text: str) -> list[str | CallDelta]:
        """Take the next piece of text."""
        return list(self._advance(text, final=False))

    def finish(self, *, truncated: bool = False) -> list[str | CallDelta]:
        """Return the rest, since no more text comes; a call that lacks only `</tool_call>` is accepted.

        The beginning of a call is dropped if the text was truncated, since it would have become one.
        """
        return list(self._advance("", final=True, truncated=truncated))

    def _advance(self, text: str, *, final: bool, truncated: bool = False) -> Iterator[str | CallDelta]:
        while True:
            if self._call is None:
                self._pending += text
                start = self._pending.find(OPEN)
                if start < 0:
                    break
                before = self._pending[:start]
                kept = before.rstrip()
                yield from self._content(kept)
                self._pending, text = before[len(kept) :], self._pending[start + 1 :]
                self._call = _CallReader(self._schemas, self._make_id, self._count)
            call = self._call
            yield from call.feed(text, final=final)
            if not (call.ended or call.failed or final):
                return
            self._call, text = None, call.rest
            if call.begun:
                self._pending, self._after_call, self._count = "", True, self._count + 1
            elif call.failed or not truncated:
                yield from self._content(self._pending + OPEN)  # a call may follow inside
                self._pending = ""
            else:
                self._pending, text = "", ""
        safe = len(self._pending) if final else len(self._pending.rstrip())  # space before a call is dropped
        text, self._pending = self._pending[:safe], self._pending[safe:]
        if not (final and self._after_call and not text.strip()):
            yield from self._content(text)

    def _content(self, text: str) -> Iterator[str]:
        if text:
            self._after_call = False
            yield text


class _CallReader:
    """Reads one call from after its opening tag.

    Attributes:
        begun: a piece of it was given.
        ended: its end was read.
        failed: it is not a call.
        rest: text that is not of the call; of one that did not begin, all that was read.

    """

    def __init__(self, schemas: Mapping[str, Any], make_id: Callable[[], str], index: int) -> None:
        """Take the schemas of tools by their names, and the number of the call in its message."""
        self._schemas, self._make_id, self._index = schemas, make_id, index
        self.begun = self.ended = self.failed = False
        self.rest = ""
        self._text = ""  # whose meaning is not certain
        self._name = ""
        self._keys: set[str] = set()
        self._value: _ValueWriter | None = None
        self._after_tag = False  # a line break there is not of the value

    def feed(self, text: str, *, final: bool) -> Iterator[CallDelta]:
        """Take the next piece of text, and give what is certain of the call."""
        self._text += text
        if not self.begun:
            self.rest += text
        if self._value is None:
            head = _HEAD[final].match(self._text)
            self._name = spelled(head[1]).strip() if head is not None else ""
            if head is None or not self._name:
                self.failed = head is not None or _HEAD_BEGUN.fullmatch(self._text) is None
                return
            yield from self._go_on(head[2], head.end())
        while self._value is not None and self._text and not self.ended:
            if self._after_tag:
                self._text, self._after_tag = self._text.removeprefix("\n"), False
            length, following = self._certain(final=final)
            yield from self._give(self._value.feed(spelled(self._text[:length])))
            if following is None:
                self._text = self._text[length:]
                return
            yield from self._give(self._value.finish())
            yield from self._go_on(following[1], following.end())

    def _certain(self, *, final: bool) -> tuple[int, re.Match[str] | None]:
        """Return how much of the text is certainly of the value, and what follows it if that is all."""
        at = -1
        while (at := self._text.find(END, at + 1)) >= 0:
            following = _NEXT[final].match(self._text, at + len(END))
            if following is not None or _NEXT_BEGUN.fullmatch(self._text, at + len(END)) is not None:
                return at - self._text.endswith("\n", 0, at), following
        end = _END_BEGUN.search(self._text)
        return len(self._text) if end is None else end.start(), None

    def _go_on(self, key: str | None, at: int) -> Iterator[CallDelta]:
        """Begin with a parameter, or end the call (None), at a place of the text."""
        if key is None:
            yield from self._give("}" if self._keys else "{}")
            self.ended, self.rest = True, self._text[at:]
            return
        key, schema = spelled(key).strip(), self._schemas.get(self._name, {})
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        kind = properties.get(key) if isinstance(properties, Mapping) else None
        before = None if key in self._keys else f"{', ' if self._keys else '{'}{_json(key)}: "
        self._keys.add(key)
        self._value, self._text, self._after_tag = _ValueWriter(before, kind, schema), self._text[at:], True

    def _give(self, arguments: str) -> Iterator[CallDelta]:
        if not arguments:
            return
        if not self.begun:
            self.begun, self.rest = True, ""
            yield CallDelta(self._index, FunctionDelta("", self._name), self._make_id(), "function")
        yield CallDelta(self._index, FunctionDelta(arguments))


class _ValueWriter:
    """Writes a value as JSON while its text is coming; what may be of another type than string, at its end."""

    def __init__(self, before: str | None, schema: Any, root: Any) -> None:
        """Take what is written before the value (None: it is left out), its schema, and where that has its `$defs`."""
        self._before, self._schema, self._root = before, schema, root
        self._held: list[str] = []
        self._length = 0  # of what is held
        self._is_text = False  # for certain

    def feed(self, text: str) -> str:
        """Take the next piece of the value; return what is certain of its JSON."""
        if self._before is None or not text:
            return ""
        if self._is_text:
            return _json(text)[1:-1]  # each character is escaped by itself
        self._held.append(text)
        looked, self._length = self._length, self._length + len(text)
        if looked < LOOKED_AT:
            self._is_text = is_text("".join(self._held)[:LOOKED_AT], self._schema, self._root)
        return self._before + _json("".join(self._held))[:-1] if self._is_text else ""

    def finish(self) -> str:
        """Return the rest of the JSON."""
        if self._before is None:
            return ""
        return '"' if self._is_text else self._before + _json(convert("".join(self._held), self._schema, self._root))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def parse(
    text: str, tools: Iterable[Mapping[str, Any]] | None = None, make_id: Callable[[], str] = new_id
) -> tuple[str, list[Call]]:
    """Separate a whole text, in which the tags are spelled, into content and calls; see `ToolCallParser`."""
    parser = ToolCallParser(tools, make_id)
    found = parser.feed(marked(text)) + parser.finish()
    calls = join_calls(item for item in found if isinstance(item, CallDelta))
    return spelled("".join(item for item in found if isinstance(item, str))), calls
