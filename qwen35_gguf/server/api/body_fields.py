"""Read fields of a request's body, each of the kind that it must be of; null is as if a field were left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from qwen35_gguf.server.api_error import ApiError, bad_request

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What a field must be: its name in messages, and how it is recognized."""

    name: str
    fits: Callable[[Any], bool]


TEXT: Kind[str] = Kind("a text", lambda value: isinstance(value, str))
FLAG: Kind[bool] = Kind("true or false", lambda value: isinstance(value, bool))
COUNT: Kind[int] = Kind(
    "a whole number from 1", lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1
)
OBJECT: Kind[dict[str, Any]] = Kind("an object", lambda value: isinstance(value, dict))
LIST: Kind[list[Any]] = Kind("a list", lambda value: isinstance(value, list))
TEXTS: Kind[list[str]] = Kind(
    "a list of texts", lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value)
)


def optional(fields: Mapping[str, Any], name: str, kind: Kind[T], where: str = "") -> T | None:
    """Return a field, or None without it.

    Args:
        fields: an object of the request.
        name: of the field.
        kind: that it must be of.
        where: the path to the object, as in "messages[0].".

    Raises:
        ApiError: it is of another kind.

    """
    value: T | None = fields.get(name)
    if value is not None and not kind.fits(value):
        raise wrong(f"{where}{name}", f"is not {kind.name}")
    return value


def required(fields: Mapping[str, Any], name: str, kind: Kind[T], where: str = "") -> T:
    """Return a field that must be given; otherwise as `optional`."""
    value = optional(fields, name, kind, where)
    if value is None:
        raise wrong(f"{where}{name}", f"is missing; give {kind.name}")
    return value


def objects(values: list[Any], where: str) -> list[dict[str, Any]]:
    """Return a list whose members must be objects.

    Raises:
        ApiError: one is not.

    """
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise wrong(f"{where}[{number}]", "is not an object")
    return values


def wrong(path: str, reason: str) -> ApiError:
    """Make the error for the field at a path."""
    return bad_request(f"{path}: {reason}", path.partition("[")[0].partition(".")[0])
