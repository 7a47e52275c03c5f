"""Answers in pieces as server-sent events, with heartbeats; and work that ends when its client goes away.

Source of the format: the HTML standard, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads an answer."""


def event(data: Any, name: str | None = None) -> bytes:
    """Write an event: a JSON value, or a text as it is."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode() if name else f"data: {text}\n\n".encode()


def comment(text: str) -> bytes:
    """Write a line that clients skip."""
    return f": {text}\n\n".encode()


async def with_heartbeats(
    events: AsyncGenerator[bytes, None], seconds: float, beat: Callable[[], bytes]
) -> AsyncGenerator[bytes, None]:
    """Give events, and what `beat` returns wherever none came for some seconds."""
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            if coming is None:
                coming = asyncio.ensure_future(events.__anext__())
            done, _ = await asyncio.wait({coming}, timeout=seconds)
            if not done:
                yield beat()
                continue
            finished, coming = coming, None
            try:
                found = finished.result()
            except StopAsyncIteration:
                return
            yield found
    finally:
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await coming
        await events.aclose()


class EventStream(Response):
    """A response of server-sent events, which ends when its client goes away or does not read."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], patience: float, held: contextlib.AsyncExitStack) -> None:
        """Take the events, the seconds that a client may take to read one, and what is closed at the end."""
        super().__init__(headers=HEADERS)
        self._events, self._patience, self._held = events, patience, held
        del self.headers["content-length"]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with self._held:
            with contextlib.suppress(ClientGoneError):
                await unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with contextlib.aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for found in self._events:
                await self._in_time(send({"type": "http.response.body", "body": found, "more_body": True}))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _in_time(self, sending: Awaitable[None]) -> None:
        try:
            await asyncio.wait_for(sending, self._patience)
        except (OSError, TimeoutError, asyncio.TimeoutError):
            raise ClientGoneError from None


async def unless_gone(receive: Receive, work: Awaitable[Result]) -> Result:
    """Wait for some work, which is cancelled when the client goes away.

    Args:
        receive: of the request, whose body was read.
        work: is started now.

    Raises:
        ClientGoneError: it went away.

    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
