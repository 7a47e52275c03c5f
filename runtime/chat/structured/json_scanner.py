"""Follow a JSON text byte by byte: which arrays are open, by which schemas, and which items they have."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from qwen35_gguf.runtime.chat.structured.schema_walk import UNIQUE, CheckedSchema, Schema


@dataclass(frozen=True)
class Container:
    """An array or object that is open.

    Attributes:
        schemas: by any of which its items or properties may be checked.
        is_array: it is an array.
        unique: its items must differ.
        start: where the current item of an array, or the current key, begins in the text.
        key: of the current value of an object.
        count: items that are complete.
        seen: what they are equal to, where they must differ.

    """

    schemas: tuple[dict[str, Any], ...]
    is_array: bool
    unique: bool
    start: int
    key: str | None = None
    count: int = 0
    seen: frozenset[Hashable] = frozenset()


@dataclass
class JsonScanner:
    """The state after a part of a text.

    Attributes:
        checked: the schema of the text.
        text: so far.
        stack: containers that are open, the outermost first.
        repeated: an item equals an earlier one of its array, although they must differ.

    """

    checked: CheckedSchema
    text: bytes = b""
    stack: list[Container] = field(default_factory=list)
    repeated: bool = False
    _in_string: bool = False
    _escaped: bool = False

    def after(self, data: bytes) -> JsonScanner:
        """Return the state after more bytes."""
        made = replace(self, stack=[*self.stack])
        for byte in data:
            made._take(byte)
        return made

    def innermost(self) -> int | None:
        """Return the depth of the innermost array whose items must differ; None without one."""
        return next((at for at in reversed(range(len(self.stack))) if self.stack[at].unique), None)

    def _take(self, byte: int) -> None:
        at = len(self.text)
        self.text += bytes([byte])
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif byte == ord("\\"):
                self._escaped = True
            elif byte == ord('"'):
                self._in_string = False
            return
        if byte == ord('"'):
            self._in_string = True
        elif byte in b"[{":
            schemas = tuple(_expanded(self.checked, self._current()))
            array = byte == ord("[")
            unique = array and any(schema.get(UNIQUE) for schema in schemas)
            self.stack.append(Container(schemas, array, unique, at + 1))
        elif byte in b"]}" and self.stack:
            self._finish(at)
            self.stack.pop()
        elif byte == ord(",") and self.stack:
            self._finish(at)
            self.stack[-1] = replace(self.stack[-1], start=at + 1, key=None)
        elif byte == ord(":") and self.stack:
            top = self.stack[-1]
            self.stack[-1] = replace(top, key=json.loads(self.text[top.start : at]))

    def _finish(self, end: int) -> None:
        top = self.stack[-1]
        item = self.text[top.start : end].strip()
        if not top.is_array or not item:
            return
        seen = top.seen
        if top.unique:
            value = _comparable(json.loads(item))
            self.repeated |= value in seen
            seen = seen | {value}
        self.stack[-1] = replace(top, count=top.count + 1, seen=seen)

    def _current(self) -> Iterable[Schema]:
        """Return the schemas of the value that begins."""
        if not self.stack:
            return [self.checked.schema]
        top = self.stack[-1]
        found: list[Schema] = []
        for schema in top.schemas:
            if top.is_array:
                first = schema.get("prefixItems", [])
                found.append(first[top.count] if top.count < len(first) else schema.get("items", True))
            elif top.key in schema.get("properties", {}):
                found.append(schema["properties"][top.key])
            else:
                found += [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties", True)]
        return found


def _expanded(checked: CheckedSchema, schemas: Iterable[Schema]) -> list[dict[str, Any]]:
    """Return schemas with all that they combine and refer to."""
    found: list[dict[str, Any]] = []
    names: set[str] = set()
    waiting = [*schemas]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, bool):
            continue
        found.append(schema)
        for keyword in ("allOf", "anyOf", "oneOf"):
            waiting += schema.get(keyword, [])
        name = schema.get("$ref", "").rpartition("/")[2]
        if name and name not in names:
            names.add(name)
            waiting.append(checked.definitions[name])
    return found


def _comparable(value: Any) -> Hashable:
    """Return what is equal for equal values of JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return ("object", frozenset((key, _comparable(member)) for key, member in value.items()))
    if isinstance(value, list):
        return ("array", tuple(map(_comparable, value)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ("number", value)
    return (type(value).__name__, value)
