"""The types of a call's arguments: a value is text without a type, and the tool's JSON schema tells its type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_INTEGER = re.compile(r"[+-]?\d{1,400}")
_MAX_REFERENCES = 16
# How values of these types are written.
_WORDS = {"null": ("null", "None"), "boolean": ("true", "True", "false", "False")}
_BRACKETS = {"object": "{", "array": "["}


def convert(text: str, schema: Any, root: Any = None) -> Any:
    """Convert a parameter's text to the type of its JSON schema; it stays text where it does not fit.

    Args:
        text: between the tags.
        schema: of the parameter; None when it is not known.
        root: the schema in which `$ref` looks for `$defs`.

    """
    schema = _dereference(schema, root)
    for member in _members(schema):
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


def is_text(begun: str, schema: Any, root: Any = None) -> bool:
    """Tell whether a parameter's value is text as it is written, whatever comes after its beginning.

    Args:
        begun: the beginning of the value.
        schema: as of `convert`.
        root: likewise.

    """
    schema, begun = _dereference(schema, root), begun.strip()
    others = [member for member in _members(schema) if not isinstance(member, str)]
    if any(spelling.startswith(begun) for member in others for spelling in _spellings(member)):
        return False
    kinds = _kinds(schema, root) or {"object", "array"}  # what `convert` looks for where nothing is known
    return not any(_may_be(kind, begun) for kind in kinds)


def _may_be(kind: str, begun: str) -> bool:
    """Tell whether a text that begins so may be of a JSON type other than string."""
    if kind in _WORDS:
        return any(word.startswith(begun) for word in _WORDS[kind])
    if kind in ("integer", "number"):
        return not begun or begun[0] in "+-." or begun[0].isdecimal()
    return kind in _BRACKETS and _BRACKETS[kind].startswith(begun[:1])


def _members(schema: Mapping[str, Any]) -> list[Any]:
    """Return the only values that a schema allows; none if it does not list them."""
    members = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return members if isinstance(members, list) else []


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


def _kinds(schema: Mapping[str, Any], root: Any, known: dict[int, set[str]] | None = None, depth: int = 0) -> set[str]:
    """Return all JSON types that a schema allows at its top; none if it does not restrict them.

    `known` has those of schemas that were looked at: some that refer to others several times soon are too many.
    """
    known = {} if known is None else known
    if id(schema) in known:
        return known[id(schema)]
    kind = schema.get("type")
    kinds = {kind} if isinstance(kind, str) else {k for k in _list(kind) if isinstance(k, str)}
    if schema:  # an empty one may be made for a reference that leads nowhere, and its number be another's later
        known[id(schema)] = kinds
    if schema.get("nullable") is True:
        kinds.add("null")
    if depth < _MAX_REFERENCES:
        for key in ("anyOf", "oneOf", "allOf"):
            for part in _list(schema.get(key)):
                kinds |= _kinds(_dereference(part, root), root, known, depth + 1)
    if not kinds:
        kinds |= {"object"} if "properties" in schema else {"array"} if "items" in schema else set()
    return kinds


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _as(kind: str, text: str) -> tuple[bool, Any]:
    """Read text as one JSON type: return whether it is valid, and the value."""
    if kind == "null":
        return text in _WORDS[kind], None
    if kind == "boolean":
        return text in _WORDS[kind], text in ("true", "True")
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
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return False, None
    return isinstance(value, dict if kind == "object" else list), value


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
