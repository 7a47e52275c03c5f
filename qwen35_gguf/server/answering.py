"""Answer a request as a whole or in pieces: what the APIs have in common."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from qwen35_gguf.runtime.async_model import AsyncQwen35, AsyncStream
from qwen35_gguf.runtime.chat.openai_types import Timings
from qwen35_gguf.server.api_error import api_error, error_object
from qwen35_gguf.server.models import TakenModel
from qwen35_gguf.server.service import Service
from qwen35_gguf.server.streaming import EventStream, comment, event, unless_gone

log = logging.getLogger(__name__)

Piece = TypeVar("Piece")
Result = TypeVar("Result")


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


@dataclass(frozen=True)
class Exchange:
    """A request with the model that answers it.

    Attributes:
        service: of the server.
        request: whose client may go away.
        name: of the model.
        model: stays loaded until the answer is over.
        progress: of the prompt: give it as `on_progress`, for heartbeats.
        held: is closed after the answer.

    """

    service: Service
    request: Request
    name: str
    model: AsyncQwen35
    held: contextlib.AsyncExitStack
    progress: Progress = field(default_factory=Progress)

    async def whole(self, work: Awaitable[Result]) -> Result:
        """Wait for an answer, which is ended when the client goes away.

        Raises:
            ClientGoneError: it went away.
            Qwen35Error: the request is refused.

        """
        result = await unless_gone(self.request.receive, work)
        self._note(result)
        if self.service.settings.log_requests:
            log.info("answered: %s", result)
        return result

    async def stream(
        self, answer: AsyncStream[Piece], encode: Callable[[AsyncIterator[Piece]], AsyncGenerator[bytes, None]]
    ) -> Response:
        """Respond with an answer in pieces.

        What is wrong with a request is a status, as far as it is found before the first heartbeat; later it is an
        event.

        Args:
            answer: begins now, and is closed in any case.
            encode: makes events of its pieces.

        Raises:
            Qwen35Error: the request is refused.

        """
        settings, path = self.service.settings, self.request.url.path
        held = self.held.pop_all()
        held.push_async_callback(answer.aclose)
        try:
            await unless_gone(self.request.receive, _begun(answer, settings.heartbeat))
        except BaseException:
            await held.aclose()
            raise

        async def whole() -> AsyncGenerator[bytes, None]:
            try:
                pieces = self._noted(self.service.metrics.measured(self.name, answer))
                if settings.log_requests:
                    pieces = _logged(pieces)
                async with contextlib.aclosing(encode(pieces)) as events:
                    async for found in events:
                        yield found
            except Exception as error:
                yield event(error_object(path, api_error(error)), "error" if path.startswith("/v1/messages") else None)

        times = {"patience": settings.patience, "heartbeat": settings.heartbeat}
        return EventStream(whole(), held, **times, beat=self.progress.comment)

    def _note(self, result: object) -> None:
        """Log the counts of an answer, and why its prompt was not known: without texts, unless requests are logged."""
        for one in result if isinstance(result, list) else [result]:
            timings = getattr(one, "timings", None)
            if isinstance(timings, Timings) and getattr(one, "choices", True):  # the chunk of the usage has none
                miss = timings.miss if self.service.settings.log_requests else _without_texts(timings.miss)
                tokens = timings.prompt_tokens, timings.reused_tokens, timings.tokens
                log.info("%s: prompt %d tokens, %d reused, answer %d%s", self.name, *tokens, miss and f"; miss: {miss}")

    async def _noted(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        async for piece in pieces:
            self._note(piece)
            yield piece


@contextlib.asynccontextmanager
async def exchange(service: Service, request: Request, name: object) -> AsyncIterator[Exchange]:
    """Take the model of a name for a request; it is loaded if it is not.

    Raises:
        ApiError: there is none of that name, or too many requests wait for it.
        Qwen35Error: it cannot be loaded.

    """
    async with contextlib.AsyncExitStack() as held:
        entering = held.enter_async_context(service.models.use(name))
        taken: TakenModel = await unless_gone(request.receive, entering)
        yield Exchange(service, request, taken.name, taken.model, held)


def _without_texts(miss: str) -> str:
    """Leave out of a miss what changed into what: "message 1, character 412: 9,840 tokens evaluated again"."""
    place, _, rest = miss.partition(": ")
    return rest and f"{place}: {rest.rpartition(': ')[2]}"


async def _logged(pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    async for piece in pieces:
        log.info("answered: %s", piece)
        yield piece


async def _begun(answer: AsyncStream[Any], seconds: float) -> None:
    """Wait until an answer begins, but not longer than some seconds."""
    beginning = asyncio.ensure_future(answer)
    beginning.add_done_callback(lambda future: future.cancelled() or future.exception())
    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(beginning), seconds)
