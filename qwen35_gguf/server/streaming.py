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

TICKS = 4  # looks at the clock in the shortest of the times
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


class EventStream(Response):
    """A response of server-sent events, which ends when its client goes away or does not read.

    A piece costs no task and no timer: one task beside looks at the clock.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        held: contextlib.AsyncExitStack,
        *,
        patience: float,
        heartbeat: float,
        beat: Callable[[], bytes],
    ) -> None:
        """Take the events.

        Args:
            events: are closed in any case.
            held: is closed after them.
            patience: seconds that a client may take to read one.
            heartbeat: seconds without any after which `beat` is sent.
            beat: returns a comment.

        """
        super().__init__(headers=HEADERS)
        self._events, self._held, self._patience = events, held, patience
        self._heartbeat, self._beat = heartbeat, beat
        self._sending: float | None = None  # since when
        self._sent = 0.0  # when the last one was
        del self.headers["content-length"]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with self._held:
            clock = asyncio.get_running_loop().time
            work = asyncio.ensure_future(self._send(send, clock))
            watch = asyncio.ensure_future(self._watch(send, clock, work))
            try:
                with contextlib.suppress(ClientGoneError, asyncio.CancelledError, OSError):
                    await unless_gone(receive, work)
            finally:
                watch.cancel()

    async def _send(self, send: Send, clock: Callable[[], float]) -> None:
        self._sent = self._sending = clock()
        async with contextlib.aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._sending = None
            async for found in self._events:
                self._sending = clock()
                await send({"type": "http.response.body", "body": found, "more_body": True})
                self._sent, self._sending = clock(), None
            self._sending = clock()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, send: Send, clock: Callable[[], float], work: asyncio.Future[None]) -> None:
        """Give up where a client does not read; send a comment where nothing else is to be sent."""
        while True:
            await asyncio.sleep(min(self._heartbeat, self._patience) / TICKS)
            if self._sending is not None:
                if clock() - self._sending > self._patience:
                    work.cancel()
            elif clock() - self._sent > self._heartbeat:
                self._sent = clock()
                beat = send({"type": "http.response.body", "body": self._beat(), "more_body": True})
                try:  # a client that does not read keeps this waiting, too
                    await asyncio.wait_for(beat, self._patience)
                except (TimeoutError, asyncio.TimeoutError):
                    work.cancel()


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
