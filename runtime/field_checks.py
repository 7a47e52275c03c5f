"""Check the fields of frozen options when they are made: one table of checks, one form of message.

A check takes a field's name and value and returns the exact value: `numpy.int64(3)` becomes 3, "32k" tokens 32,768, a
path as text a `Path`. Whatever else is given is refused by name, so that no value of a wrong type reaches llama.cpp.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

from qwen35_gguf.errors import MessageError, UnitError
from qwen35_gguf.units import parse_length, parse_size

Check = Callable[[str, Any], Any]

SHOWN = 60  # characters of a wrong value in a message
INT32 = (1 << 31) - 1
EXACT = 1 << 53  # whole numbers below are exact as floats
FOREVER = 1e8  # seconds; more is beyond what clocks of threads and sockets take


def checked(check: Check, default: Any = None) -> Any:
    """Make a field of a dataclass that `check_fields` checks."""
    return field(default=default, metadata={"check": check})


def required(check: Check) -> Any:
    """Make such a field without a default."""
    return field(metadata={"check": check})


def check_fields(options: Any) -> None:
    """Check all fields of a dataclass, also of a frozen one, and make them exact; call it in `__post_init__`.

    Raises:
        MessageError: a value is malformed.

    """
    for each in fields(options):
        check = each.metadata.get("check")
        if check is not None:
            object.__setattr__(options, each.name, check(each.name, getattr(options, each.name)))


def shown(value: object) -> str:
    """Show a value in a message: on one line, and not too long of it."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a foreign class
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def refuse(name: str, value: object, wanted: str) -> MessageError:
    """Make the error for a wrong value."""
    return MessageError(f"{name}: {shown(value)} is not {wanted}")


# ---- checks ------------------------------------------------------------------------------------------------------


def anything(_: str, value: Any) -> Any:
    """Accept a value that is checked where it is used."""
    return value


def optional(check: Check) -> Check:
    """Accept None, too."""
    return lambda name, value: None if value is None else check(name, value)


def either(word: str, check: Check) -> Check:
    """Accept a word, too."""

    def one(name: str, value: Any) -> Any:
        if isinstance(value, str):
            if value == word:
                return word
            value = _Text(value)
        try:
            return check(name, value)
        except MessageError as error:
            raise MessageError(str(error).replace(" is not ", f' is not "{word}" or ', 1)) from None

    return one


class _Text(str):
    """A text that no check takes for a number."""


def whole(least: int = 1, most: int = INT32) -> Check:
    """Accept whole numbers in a range, those of NumPy included; True and 3.0 are none."""
    wanted = f"a whole number from {least:,}" + ("" if most == INT32 else f" to {most:,}")

    def one(name: str, value: Any) -> int:
        if type(value) is int and least <= value <= most:  # what nearly all are, fast: there may be a million
            return value
        number = _index(value)
        if number is None or not least <= number <= most:
            raise refuse(name, value, wanted)
        return number

    return one


def _index(value: Any) -> int | None:
    """Return a whole number exactly, None if it is not one; arrays of NumPy and tensors are not."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or _dimensions(value):
        return None
    if _kind(value) == "b":
        return None
    try:
        return int(value.__index__())
    except (TypeError, ValueError):
        return None


def _dimensions(value: Any) -> int:
    """Count the dimensions of an array of NumPy or a tensor, 0 for other objects."""
    found = getattr(value, "ndim", None)
    return found if isinstance(found, int) else 0


def _kind(value: Any) -> str:
    """Return NumPy's letter for the kind of a scalar's type, "" for objects that are not NumPy's."""
    return str(getattr(getattr(value, "dtype", None), "kind", ""))


def number(least: float, most: float, *, above: bool = False) -> Check:
    """Accept finite numbers in a range, those of NumPy included; `above`: `least` itself is excluded."""
    upper = "" if math.isinf(most) else f" to {most}"
    wanted = f"a number {'above' if above else 'from'} {least}{upper}"

    def one(name: str, value: Any) -> float:
        if (type(value) is float or (type(value) is int and abs(value) < EXACT)) and least < value < most:
            return float(value)
        found = _float(value)
        if found is None or not math.isfinite(found) or not least <= found <= most or (above and found == least):
            raise refuse(name, value, wanted)
        return found

    return one


def _float(value: Any) -> float | None:
    whole_number = _index(value)
    if whole_number is not None:
        try:
            return float(whole_number)
        except OverflowError:
            return None
    if isinstance(value, bool | str | bytes | bytearray) or _dimensions(value) or _kind(value) not in ("", "f"):
        return None
    if not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def tokens(least: int = 1, most: int = INT32) -> Check:
    """Accept a number of tokens, or a text such as "32k" or "1M"."""
    return _sized(least, most, parse_length, 'a whole number from {:,}, or a text such as "32k"')


def bytes_of(least: int = 0, most: int = 1 << 50) -> Check:
    """Accept a number of bytes, or a text such as "2GB"."""
    return _sized(least, most, parse_size, 'a whole number of bytes from {:,}, or a text such as "2GB"')


def _sized(least: int, most: int, parse: Callable[[str], int], wanted: str) -> Check:
    def one(name: str, value: Any) -> int:
        try:
            found = parse(value) if isinstance(value, str) else _index(value)
        except UnitError:
            found = None
        if found is None or not least <= found <= most:
            raise refuse(name, value, wanted.format(least))
        return found

    return one


def flag(name: str, value: Any) -> bool:
    """Accept True and False, those of NumPy included."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise refuse(name, value, "True or False")
    return bool(value)


def text(name: str, value: Any) -> str:
    """Accept a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise refuse(name, value, "a text, or is empty")
    return str(value)


def texts(wanted: str) -> Check:
    """Accept a text or several; None is none of them."""

    def one(name: str, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        if isinstance(value, str):
            value = (value,)
        found = _members(value)
        if found is None or not all(isinstance(each, str) and each for each in found):
            raise MessageError(f"{name}: is not {wanted}")
        return tuple(str(each) for each in found)

    return one


def _members(value: Any) -> tuple[Any, ...] | None:
    """Return what a list or another iterable has, None of what is not one."""
    if isinstance(value, bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        return None
    try:
        return tuple(value)
    except TypeError:  # an array of NumPy without dimensions
        return None


def file_path(name: str, value: Any) -> Path:
    """Accept a path as text or as an object of `pathlib`."""
    try:
        plain = os.fspath(value)
    except TypeError:
        plain = b""
    if not isinstance(plain, str) or not plain or "\0" in plain:
        raise refuse(name, value, "a path")
    return Path(plain)


def file_paths(name: str, value: Any) -> tuple[Path, ...]:
    """Accept a path or several."""
    several = None if isinstance(value, str | os.PathLike) else _members(value)
    return tuple(file_path(name, each) for each in ((value,) if several is None else several))


def choice(names: Iterable[str]) -> Check:
    """Accept one of a few words."""
    known = tuple(names)

    def one(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise refuse(name, value, f"one of {', '.join(known)}")
        return str(value)

    return one


def instance(kind: type) -> Check:
    """Accept an object of a class."""

    def one(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise refuse(name, value, f"a {kind.__name__}")
        return value

    return one


def function(name: str, value: Any) -> Any:
    """Accept something that can be called."""
    if not callable(value):
        raise refuse(name, value, "a function")
    return value


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Accept an object with names as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise refuse(name, value, "an object with names as keys")
    return dict(value)
