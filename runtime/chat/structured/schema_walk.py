"""Walk over a JSON schema: every keyword is rewritten by a table, and what a reference names is kept once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from qwen35_gguf.errors import GrammarError

Schema = dict[str, Any] | bool

MAX_DEPTH = 100
UNIQUE = "x-unique-items"  # of arrays, in place of `uniqueItems`: the engine passes over it


@dataclass
class CheckedSchema:
    """A rewritten schema.

    Attributes:
        schema: what the engine compiles, without `$defs`.
        definitions: schemas by their name in `$defs`.
        places: all rewritten schemas with their paths in the given one, the inner ones first.
        has_unique_items: whether arrays have `uniqueItems`, which the engine does not know.
        has_control_characters: whether keys or values have control characters that JSON escapes by number only.

    """

    schema: Schema = True
    definitions: dict[str, Schema] = field(default_factory=dict)
    places: list[tuple[str, Schema]] = field(default_factory=list)
    has_unique_items: bool = False
    has_control_characters: bool = False

    def document(self, schema: Schema) -> dict[str, Any]:
        """Return a schema as one document with the definitions."""
        whole = schema if isinstance(schema, dict) else {} if schema else {"enum": []}
        return {**whole, "$defs": self.definitions} if self.definitions else whole


Rewrite = Callable[["Walk", Mapping[str, Any], Any, str, dict[str, Any]], list[Schema]]


def escape(key: str) -> str:
    """Write a key as a step of a path."""
    return key.replace("~", "~0").replace("/", "~1")


def shown(path: str) -> str:
    """Write a path or a name in a message, in one line."""
    return json.dumps(path[:200], ensure_ascii=False)[1:-1]


class Walk:
    """One walk over a schema.

    Attributes:
        result: what is made.
        name_patterns: how many patterns of names there were so far.

    """

    def __init__(self, root: Any, where: str, keywords: Mapping[str, Rewrite]) -> None:
        """Start.

        Args:
            root: the whole schema, types of JSON.
            where: begins the messages.
            keywords: what each becomes: a function takes the walk, the schema, the value, the path and what is made of
                the schema, to which it adds; it returns further schemas that must hold.

        """
        self.result = CheckedSchema()
        self.name_patterns = 0
        self._root, self._where, self._keywords = root, where, keywords
        self._names: dict[str, str] = {}  # of definitions, by path
        self._anchors: dict[str, str] | None = None

    def error(self, path: str, keyword: str, why: str, action: str) -> GrammarError:
        """Make the error of a keyword."""
        return GrammarError(f"{self._where}: {shown(keyword)} at {shown(path)} {why}; {action}")

    def schema(self, given: Any, path: str) -> Schema:
        """Rewrite the schema at a path.

        Raises:
            GrammarError: it is not a schema, or a keyword is unknown, malformed, or cannot be enforced.

        """
        if isinstance(given, bool):
            return given
        if not isinstance(given, dict):
            raise GrammarError(f"{self._where}: {shown(path)} is neither an object nor true or false; give a schema")
        if path.count("/") > MAX_DEPTH:
            raise GrammarError(f"{self._where}: is nested too deeply; use $ref")
        made: dict[str, Any] = {}
        also: list[Schema] = []
        for keyword, value in given.items():
            if keyword.startswith("x-"):
                continue
            rewrite = self._keywords.get(keyword)
            if rewrite is None:
                raise self.error(path, keyword[:60], "is not a known keyword", "correct or remove it")
            also += rewrite(self, given, value, path, made)
        if also and not made and len(also) == 1:
            return also[0]
        if also:
            made["allOf"] = [*made.get("allOf", ()), *also]
        self.result.places.append((path, made))
        return made

    # ---- references ------------------------------------------------------------------------------------------------

    def reference(self, value: Any, path: str) -> Schema:
        """Rewrite the schema that `$ref` names, once, as an entry of `$defs`."""
        target = self._pointer(value, path)
        if target not in self._names:
            name = self._names[target] = f"d{len(self._names)}"
            self.result.definitions[name] = True  # known before what is inside refers to it
            self.result.definitions[name] = self.schema(self._at(target, path), target)
        return {"$ref": f"#/$defs/{self._names[target]}"}

    def definition(self, schema: Schema) -> Schema:
        """Follow references to a schema that is not one."""
        seen = 0
        while isinstance(schema, dict) and set(schema) == {"$ref"} and seen < MAX_DEPTH:
            schema = self.result.definitions[schema["$ref"].rpartition("/")[2]]
            seen += 1
        return schema

    def _pointer(self, value: Any, path: str) -> str:
        """Return the path of what a reference names."""
        if not isinstance(value, str):
            raise self.error(path, "$ref", "is not a text", "give #, #/$defs/NAME or #ANCHOR")
        own = self._root.get("$id", self._root.get("id")) if isinstance(self._root, dict) else None
        base, _, fragment = value.partition("#")
        if base and base != str(own).rstrip("#"):
            raise self.error(path, "$ref", f"names {value[:80]!r}, which is not in this schema", "copy it into $defs")
        fragment = unquote(fragment)
        if not fragment or fragment.startswith("/"):
            return f"#{fragment}"
        if self._anchors is None:
            self._anchors = {}
            _find_anchors(self._root, "#", self._anchors)
        if fragment not in self._anchors:
            raise self.error(path, "$ref", f"names {value[:80]!r}, which is not in this schema", "correct it")
        return self._anchors[fragment]

    def _at(self, pointer: str, path: str) -> Any:
        found = self._root
        for step in pointer.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                raise self.error(path, "$ref", f"names {pointer[:80]!r}, which is not in this schema", "correct it")
        return found


def _find_anchors(value: Any, path: str, found: dict[str, str]) -> None:
    if isinstance(value, dict):
        if isinstance(value.get("$anchor"), str):
            found.setdefault(value["$anchor"], path)
        if isinstance(name := value.get("$id"), str) and name.startswith("#"):  # draft-07
            found.setdefault(name[1:], path)
        for key, inner in value.items():
            _find_anchors(inner, f"{path}/{escape(key)}", found)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _find_anchors(inner, f"{path}/{number}", found)
