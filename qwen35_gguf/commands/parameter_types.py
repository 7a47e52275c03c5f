"""Types of option values, for `type=` of click.option: SIZE, MEMORY, DURATION, LAYERS, ENDPOINTS, tokens(least).

They are functions and not subclasses of click.ParamType, whose type parameter exists since click 8.4 only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qwen35_gguf import units
from qwen35_gguf.errors import RpcServerError, UnitError
from qwen35_gguf.runtime.llama.devices import Layers
from qwen35_gguf.runtime.llama.rpc import parse_endpoint


def _size(text: str) -> int:
    """Read a size such as 500MB or 2GiB, in bytes."""
    try:
        return units.parse_size(text)
    except UnitError as error:
        raise click.BadParameter(str(error)) from None


def _memory_size(text: str) -> int:
    """Read a size of memory such as 16GB, in bytes."""
    try:
        return units.parse_size(text, units.MEMORY_LIMIT)
    except UnitError as error:
        raise click.BadParameter(str(error)) from None


def _duration(text: str) -> float:
    """Read a duration such as 90s or 5min, from a second to a day, in seconds."""
    try:
        return units.parse_duration(text)
    except UnitError as error:
        raise click.BadParameter(str(error)) from None


def _layer_count(text: str) -> Layers:
    """Read a number of layers, -1 for all, or auto."""
    if text == "auto":
        return "auto"
    try:
        count = int(text)
    except ValueError:
        count = -2
    if count < -1:
        raise click.BadParameter(f"{text!r} is not a whole number from 0, -1 for all, or auto")
    return count


def _endpoints(text: str) -> tuple[str, ...]:
    """Read RPC servers: host:port, separated by commas."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for endpoint in found:
        try:
            parse_endpoint(endpoint)
        except RpcServerError as error:
            raise click.BadParameter(str(error)) from None
    return found


def tokens(least: int = 1, most: int | None = None) -> Any:
    """Make the type of a length in tokens, such as 4096, 32k or 1M.

    Args:
        least: the smallest length.
        most: the largest; None: any.

    """

    def read(text: str | int) -> int:
        try:
            length = text if isinstance(text, int) else units.parse_length(text)
        except UnitError as error:
            raise click.BadParameter(str(error)) from None
        if length < least or (most is not None and length > most):
            upper = f" to {most:,}" if most is not None else ""
            raise click.BadParameter(f"{text} is not a length from {least:,}{upper}")
        return length

    return named_type("tokens", read)


def named_type(name: str, read: Callable[[str], Any]) -> Any:
    """Make a type of a function from text to a value, which raises click.BadParameter; help shows NAME for a value."""
    made = click.types.FuncParamType(read)
    made.name = name
    return made


def _adapter(text: str) -> tuple[Path, float]:
    """Read FILE or FILE:SCALE. A colon without a number behind it is part of the path, as that of a Windows drive."""
    path, colon, scale = text.rpartition(":")
    if colon and path and not Path(text).exists():
        try:
            return Path(path), float(scale)
        except ValueError:
            pass
    return Path(text), 1.0


def _template_option(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; a value that is JSON is that value, such as true, and any other is text."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise click.BadParameter(f"{text!r} is not KEY=VALUE, such as preserve_thinking=true")
    try:
        return name.strip(), json.loads(value)
    except (ValueError, RecursionError):
        return name.strip(), value


SIZE = named_type("size", _size)
MEMORY = named_type("size", _memory_size)
DURATION = named_type("time", _duration)
LAYERS = named_type("layers", _layer_count)
ENDPOINTS = named_type("host:port,...", _endpoints)
TEMPLATE_OPTION = named_type("key=value", _template_option)
ADAPTER = named_type("file[:scale]", _adapter)
