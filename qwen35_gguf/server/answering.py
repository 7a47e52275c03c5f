"""Begin the answer to a request, and send it in pieces: what the APIs have in common."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from qwen35_gguf.runtime.async_model import AsyncStream
from qwen35_gguf.server.api_error import api_error, error_object
from qwen35_gguf.server.settings import ServerSettings
from qwen35_gguf.server.streaming import EventStream, comment, event, unless_gone, with_heartbeats


class Progress:
    """Remembers how far a prompt is evaluated, from the thread of the model."""

    def __init__(self) -> None:
        self.done = self.total = 0

    def __call__(self, done: int, total: int) -> None:
        """Remember that `done` of `total` tokens are evaluated."""
        self.done, self.total = done, total

    def comment(self) -> bytes:
        """Return a heartbeat."""
        if not self.total:
            return comment("waiting")
        return comment(f"prompt {self.done}/{self.total}" if self.done < self.total else "generating")


async def stream_events(
    request: Request,
    settings: ServerSettings,
    answer: AsyncStream[Any],
    events: AsyncGenerator[bytes, None],
    progress: Progress,
    held: contextlib.AsyncExitStack,
) -> Response:
    """Respond with an answer in pieces.

    What is wrong with a request is a status, as far as it is found before the first heartbeat; later it is an event.

    Args:
        request: whose client may go away.
        settings: of the server.
        answer: begins now, and is closed in any case.
        events: made of the answer's pieces.
        progress: of the prompt, for heartbeats.
        held: is closed after the answer.

    Raises:
        Qwen35Error: the request is refused.

    """
    held.push_async_callback(answer.aclose)
    try:
        await unless_gone(request.receive, _begun(answer, settings.heartbeat))
    except BaseException:
        await held.aclose()
        raise

    async def whole() -> AsyncGenerator[bytes, None]:
        try:
            async with contextlib.aclosing(events):
                async for found in events:
                    yield found
        except Exception as error:
            yield event(error_object(request.url.path, api_error(error)))

    beating = with_heartbeats(whole(), settings.heartbeat, progress.comment)
    return EventStream(beating, settings.patience, held)


async def _begun(answer: AsyncStream[Any], seconds: float) -> None:
    """Wait until an answer begins, but not longer than some seconds."""
    beginning = asyncio.ensure_future(answer)
    beginning.add_done_callback(lambda future: future.cancelled() or future.exception())
    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(beginning), seconds)
