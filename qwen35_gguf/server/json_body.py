"""Read the JSON body of a request, within limits of size and time."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from starlette.requests import ClientDisconnect, Request

from qwen35_gguf.server.api_error import ApiError, bad_request
from qwen35_gguf.server.settings import ServerSettings

log = logging.getLogger(__name__)


async def read_object(request: Request, settings: ServerSettings) -> dict[str, Any]:
    """Return the JSON object that a request has as its body.

    Raises:
        ApiError: it is too large, comes too slowly, or is not a JSON object.

    """
    try:
        body = await asyncio.wait_for(_bytes(request, settings.limits.body_bytes), settings.patience)
    except (TimeoutError, asyncio.TimeoutError):
        raise ApiError(408, f"body: took longer than {settings.patience:g} s; send it faster") from None
    except ClientDisconnect:
        raise ApiError(400, "body: broke off; send it again") from None
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        # A surrogate on its own is valid in JSON, and in no text; 1e999 is, too, and becomes an infinity.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise bad_request(f"body: is not JSON ({_reason(error)}); send a JSON object") from None
    if not isinstance(value, dict):
        raise bad_request("body: is not a JSON object; send {...}")
    if settings.log_requests:
        log.info("asked: %s", printable(json.dumps(value, ensure_ascii=False)))
    return value


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
    if isinstance(error, UnicodeEncodeError):
        return "a surrogate on its own"
    return " ".join(str(error).split())[:120]
