"""Read the JSON body of a request, within limits of size and time."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from qwen35_gguf.server.api_error import ApiError, bad_request
from qwen35_gguf.server.request_limits import check_texts
from qwen35_gguf.server.settings import ServerSettings

log = logging.getLogger(__name__)

Checked = TypeVar("Checked")

LARGE = 64 << 10  # bytes; less is parsed and checked within milliseconds
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # also of a pair, which is a character


async def read_checked(
    request: Request, settings: ServerSettings, check: Callable[[dict[str, Any]], Checked], *, slow: bool = False
) -> tuple[dict[str, Any], Checked]:
    """Return the JSON object that a request has as its body, and what a check makes of it.

    A large body is parsed and checked in a thread, since the loop answers everybody.

    Args:
        request: whose body is read.
        settings: have the limits.
        check: is called with the object.
        slow: the check may take long for a small body, too.

    Raises:
        ApiError: it is too large, comes too slowly, or is not a JSON object.
        Exception: whatever the check raises.

    """
    body = await _received(request, settings)

    def both() -> tuple[dict[str, Any], Checked]:
        found = _object(body, settings)
        return found, check(found)

    return await asyncio.to_thread(both) if slow or len(body) > LARGE else both()


async def read_object(request: Request, settings: ServerSettings) -> dict[str, Any]:
    """Return the JSON object that a request has as its body; errors as of `read_checked`."""
    return (await read_checked(request, settings, lambda _: None))[0]


async def _received(request: Request, settings: ServerSettings) -> bytes:
    try:
        return await asyncio.wait_for(_bytes(request, settings.limits.body_bytes), settings.patience)
    except (TimeoutError, asyncio.TimeoutError):
        raise ApiError(408, f"body: took longer than {settings.patience:g} s; send it faster") from None
    except ClientDisconnect:
        raise ApiError(400, "body: broke off; send it again") from None


def _object(body: bytes, settings: ServerSettings) -> dict[str, Any]:
    """Parse a body. Within a single call of the parser no other thread runs, so that it is counted before."""
    limits = settings.limits
    for name, marks, most in (
        ("commas", b",", limits.body_values),
        ("opening brackets", b"[{", limits.body_containers),
        ("backslashes", b"\\", limits.body_escapes),
    ):
        if sum(body.count(mark) for mark in marks) > most:
            message = f"body: has more than {most:,} {name}, those in texts included; send less"
            raise ApiError(413, message, "request_too_large")
    hooks: dict[str, Any] = {}
    if len(body) > LARGE:  # functions of Python, at whose calls other threads take their turn
        hooks = {"parse_int": lambda digits: int(digits), "object_hook": lambda found: found}
    try:
        text = body.decode(json.detect_encoding(body))
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, **hooks)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"body: is not JSON ({_reason(error)}); send a JSON object") from None
    if _SURROGATE.search(text) and not _is_text(value):  # valid in JSON, and in no text
        raise bad_request("body: is not JSON (a surrogate on its own); send a JSON object")
    if not isinstance(value, dict):
        raise bad_request("body: is not a JSON object; send {...}")
    if len(body) > limits.text_bytes:
        check_texts(value, limits)
    if settings.log_requests:
        log.info("asked: %s", printable(json.dumps(value, ensure_ascii=False)))
    return value


def _is_text(value: Any) -> bool:
    """Tell whether no text in a value of JSON, names included, has a surrogate on its own."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if not one.isascii():
                try:
                    one.encode()
                except UnicodeEncodeError:
                    return False
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]
    return True


def _finite(digits: str) -> float:
    """Read a number; 1e999 is one in JSON, and no float is so large."""
    found = float(digits)
    if math.isinf(found):
        raise ValueError(f"{digits[:20]} is too large a number")
    return found


async def _bytes(request: Request, limit: int) -> bytes:
    too_large = ApiError(413, f"body: is larger than {limit:,} bytes; send less", "request_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def printable(text: str) -> str:
    """Escape what moves a cursor, ends a line or reverses text: a terminal may show the log."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())[:120]
