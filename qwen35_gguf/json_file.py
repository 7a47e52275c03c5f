"""JSON files that come from a user: one reader, whose entries have the type that the caller asks for.

`read_json` opens a file, `JsonObject` hands out its entries. A file that cannot be read, and an entry of the wrong
type, is one line with the file, the path of the key, what is there, and what must be:

    config.json: text_config.layer_types[3] is 5; must be a text; correct it, or download the file again

For example:

    config = read_json(directory / "config.json")
    layers = config.section("text_config").need("num_hidden_layers", SIZE)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from qwen35_gguf.errors import CheckpointError, Qwen35Error

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
D = TypeVar("D")

ADVICE = "correct it, or download the file again"
DEEPEST = 64  # levels of objects and lists; the files of checkpoints have up to six
LARGEST_COUNT = 2**53  # what every reader of JSON holds exactly
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Kind(Generic[T_co]):
    """A type that an entry may have; `name` completes "must be".

    `items` is the kind of a list's items, or of an object's values.
    """

    name: str
    accepts: Callable[[Any], bool]
    items: Kind[Any] | None = None

    def fault(self, value: Any, path: str) -> tuple[str, Any, Kind[Any]] | None:
        """Return path, value and wanted kind of the first part that is of another kind; None if all are right."""
        if not self.accepts(value):
            return path, value, self
        if self.items is not None:
            named = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in named:
                if not self.items.accepts(item) or self.items.items is not None:
                    inner = f"{path}[{key}]" if isinstance(key, int) else _join(path, key)
                    if found := self.items.fault(item, inner):
                        return found
        return None


def is_whole(value: Any, least: int, most: int = LARGEST_COUNT) -> bool:
    """Tell whether a value of JSON is a whole number from `least` to `most`; true is none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


TEXT = Kind[str]("a text", lambda value: isinstance(value, str))
FLAG = Kind[bool]("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind[float]("a number", _is_number)
POSITIVE = Kind[float]("a positive number", lambda value: _is_number(value) and value > 0)
COUNT = Kind[int]("a count (0 or more)", lambda value: is_whole(value, 0))
SIZE = Kind[int]("a size (1 or more)", lambda value: is_whole(value, 1))
OBJECT = Kind[dict[str, Any]]("an object", lambda value: isinstance(value, dict))
LIST = Kind[list[Any]]("a list", lambda value: isinstance(value, list))
ANY = Kind[Any]("anything", lambda _value: True)


def at_most(largest: int, least: int = 1) -> Kind[int]:
    """Return the kind of the whole numbers from `least` to `largest`."""
    return Kind(f"a whole number from {least:,} to {largest:,}", lambda value: is_whole(value, least, largest))


def list_of(kind: Kind[T]) -> Kind[list[T]]:
    """Return the kind of the lists whose items are of `kind`."""
    return Kind("a list", LIST.accepts, kind)


def map_of(kind: Kind[T]) -> Kind[dict[str, T]]:
    """Return the kind of the objects whose values are all of `kind`."""
    return Kind("an object", OBJECT.accepts, kind)


def one_of(*values: str) -> Kind[str]:
    """Return the kind of these texts."""
    known = f"one of {', '.join(values)}" if len(values) > 1 else repr(values[0])
    return Kind(known, lambda value: isinstance(value, str) and value in values)


def either(first: Kind[T], second: Kind[D]) -> Kind[T | D]:
    """Return the kind of what one of two kinds accepts."""
    return Kind(
        f"{first.name} or {second.name}", lambda value: not (first.fault(value, "") and second.fault(value, ""))
    )


@dataclass(frozen=True)
class JsonObject:
    """An object of a JSON file, and where it is.

    Attributes:
        values: the entries, as they were parsed. Null counts as absent everywhere.
        where: the file, for messages.
        path: the keys that lead to this object, `text_config.rope_parameters`; "" for the whole file.
        fallback: where an entry is looked up that this object lacks.
        error: what is raised.
        advice: the last part of messages.

    """

    values: Mapping[str, Any]
    where: str
    path: str = ""
    fallback: JsonObject | None = None
    error: type[Qwen35Error] = CheckpointError
    advice: str = ADVICE

    def __contains__(self, key: str) -> bool:
        """Tell whether an entry is there, and not null."""
        return self.values.get(key) is not None or (self.fallback is not None and key in self.fallback)

    @overload
    def get(self, key: str, kind: Kind[T]) -> T | None: ...
    @overload
    def get(self, key: str, kind: Kind[T], default: D) -> T | D: ...
    def get(self, key: str, kind: Kind[Any], default: Any = None) -> Any:
        """Return an entry of a kind; the default if it is absent or null. Raises `error` if it is of another kind."""
        value = self.values.get(key)
        if value is None:
            return default if self.fallback is None else self.fallback.get(key, kind, default)
        if found := kind.fault(value, _join(self.path, key)):
            path, inner, wanted = found
            raise self._mistake(path, inner, wanted.name)
        return value

    def need(self, key: str, kind: Kind[T], why: str = "") -> T:
        """Return an entry of a kind. Raises `error` if it is absent, null, or of another kind; `why` it is needed."""
        value = self.get(key, kind)
        if value is None:
            reason = f"; {why} needs it" if why else f"; must be {kind.name}"
            raise self.error(f"{self.where}: {_join(self.path, key)} is missing{reason}; {self.advice}")
        return value

    def section(self, key: str) -> JsonObject:
        """Return an object in this one, without entries if it is absent or null."""
        holder = self if self.values.get(key) is not None or self.fallback is None else self.fallback
        return holder.inner(holder.get(key, OBJECT) or {}, _join(holder.path, key))

    def sections(self, key: str) -> Iterator[JsonObject]:
        """Yield the objects of a list in this one; none if it is absent or null."""
        for number, values in enumerate(self.get(key, list_of(OBJECT)) or []):
            yield self.inner(values, f"{_join(self.path, key)}[{number}]")

    def inner(self, values: Mapping[str, Any], path: str) -> JsonObject:
        """Return a part of this file that is an object."""
        if path.count(".") + path.count("[") > DEEPEST:
            raise self.error(f"{self.where}: is nested more than {DEEPEST} levels deep; {self.advice}")
        return replace(self, values=values, path=path, fallback=None)

    def mistake(self, key: str, must: str) -> Qwen35Error:
        """Return the error for an entry whose value cannot be used: `WHERE: KEY is VALUE; must be MUST; what to do`."""
        value = self.values.get(key)
        if value is None and self.fallback is not None and key in self.fallback:
            return self.fallback.mistake(key, must)
        return self._mistake(_join(self.path, key), value, must)

    def _mistake(self, path: str, value: Any, must: str) -> Qwen35Error:
        return self.error(f"{self.where}: {path} is {shown(value)}; must be {must}; {self.advice}")


def read_json(
    path: Path,
    *,
    optional: bool = False,
    error: type[Qwen35Error] = CheckpointError,
    advice: str = ADVICE,
) -> JsonObject:
    """Read the object in a JSON file; an empty one if the file is optional and absent.

    Args:
        path: the file.
        optional: whether it may be absent.
        error: what is raised.
        advice: what to do about a damaged one.

    Raises:
        Qwen35Error: `error`: the file is missing, cannot be read, is not JSON, or holds something else than an object.

    """
    if not path.is_file():
        if optional:
            return JsonObject({}, str(path), error=error, advice=advice)
        if path.exists():
            raise error(f"{path}: is not a file; {advice}")
        raise error(f"{path.parent}: no {path.name}; give the directory of a Hugging Face checkpoint")
    return parse_json(read_text(path, error, advice), str(path), error, advice)


def parse_json(
    text: str | bytes, where: str, error: type[Qwen35Error] = CheckpointError, advice: str = ADVICE
) -> JsonObject:
    """Parse an object; `where` is the file that messages name. Arguments and errors as of `read_json`."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
        if text.startswith("\ufeff"):
            raise ValueError("it starts with a byte order mark")
        value = json.loads(text, object_pairs_hook=_object)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # half a pair cannot be written as UTF-8
    except UnicodeError as problem:
        raise error(f"{where}: is not UTF-8 ({getattr(problem, 'reason', problem)}); {advice}") from None
    except ValueError as problem:
        reason = " ".join(str(problem).split()) if text.strip() else "it is empty"
        raise error(f"{where}: is not valid JSON ({reason}); {advice}") from None
    except RecursionError:
        raise error(f"{where}: is not valid JSON (nested too deep); {advice}") from None
    if not isinstance(value, dict):
        raise error(f"{where}: is {shown(value)}; must be an object; {advice}")
    return JsonObject(value, where, error=error, advice=advice)


def read_text(path: Path, error: type[Qwen35Error] = CheckpointError, advice: str = ADVICE) -> str:
    """Return the text of a UTF-8 file. Raises `error` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: is not UTF-8 ({problem.reason} at byte {problem.start:,}); {advice}") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror or problem}); check the path and permissions") from None


def shown(value: Any) -> str:
    """Return a value as messages show it: as JSON has it, in up to 60 characters; larger objects by their type."""
    if isinstance(value, dict | list):
        items = list(value.values() if isinstance(value, dict) else value)
        what = "an object" if isinstance(value, dict) else "a list"
        if len(items) > 8 or any(isinstance(item, dict | list) for item in items):
            return what
        text = json.dumps(value, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode() if len(text) <= 60 else what
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(name: str) -> str:
    """Return a name of a file as messages show it: on one line, in up to 100 characters."""
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= 100 else f"{name[:97]}..."


def some_of(names: Sequence[object], most: int) -> str:
    """Name up to `most` for a message, and tell how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def _join(path: str, key: str) -> str:
    return f"{path}.{printable(key)}" if path else printable(key)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; a key with two different values is an error, as either could be meant."""
    made = dict(pairs)
    if len(made) != len(pairs):
        for key, value in pairs:
            if made[key] != value:
                raise ValueError(f"the key {key!r} has two different values")
    return made
