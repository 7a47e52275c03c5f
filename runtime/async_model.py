"""`Qwen35` for asyncio: awaitable calls and asynchronous streams, which run side by side as those of threads do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from qwen35_gguf.errors import ClosedError
from qwen35_gguf.runtime.calls.call import Cancelled, Scope
from qwen35_gguf.runtime.chat.openai_types import ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk
from qwen35_gguf.runtime.engine.forest.reuse import CacheInfo
from qwen35_gguf.runtime.engine.snapshot import Snapshot
from qwen35_gguf.runtime.field_checks import flag
from qwen35_gguf.runtime.model import Qwen35
from qwen35_gguf.runtime.options import MANY_OPTIONS, RAW_OPTIONS, GenerateOptions, LoadOptions, with_fields_of
from qwen35_gguf.runtime.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen35_gguf.runtime.options.keywords import GenerateKeywords, LoadKeywords

Piece = TypeVar("Piece")
Result = TypeVar("Result")

MOST_REQUESTS = 256  # that a thread waits for; more wait for one of them
_END = object()


class AsyncQwen35:
    """A model for asyncio. As many requests as the model has sequences (`parallel`) run side by side, others wait.

    Use it in an `async with`, or call `aclose`. A request whose task is cancelled, as by `asyncio.timeout`, and a
    stream that is closed or dropped, free the engine after at most one call of llama.cpp. Callbacks (`on_progress`) are
    called in a thread of ours.
    """

    def __init__(self, path: str | Path | LoadOptions | Qwen35, **keywords: Unpack[LoadKeywords]) -> None:
        """Prepare a model; it is loaded by the first request, or at the beginning of an `async with`.

        Args:
            path: as of `Qwen35`, or a model that is loaded already, which `aclose` closes.
            keywords: the fields of `LoadOptions`.

        Raises:
            MessageError: an option is malformed.

        """
        self._options = None if isinstance(path, Qwen35) else LoadOptions.of(path, keywords)
        self._model = path if isinstance(path, Qwen35) else None
        self._threads = ThreadPoolExecutor(MOST_REQUESTS, thread_name_prefix="qwen35")
        self._loading = threading.Lock()
        self._scopes: set[Scope] = set()
        self._closed = False

    async def load(self) -> Qwen35:
        """Load the model, if that is still to be done, and return it; errors as of `Qwen35`."""
        return await self._run(self._loaded)

    async def __aenter__(self) -> AsyncQwen35:
        await self.load()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # ---- requests ------------------------------------------------------------------------------------------------

    @overload
    def chat(
        self,
        messages: Any,
        options: GenerateOptions | None = None,
        *,
        stream: Literal[False] = False,
        on_progress: Callable[[int, int], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Awaitable[ChatCompletion]: ...

    @overload
    def chat(
        self,
        messages: Any,
        options: GenerateOptions | None = None,
        *,
        stream: Literal[True],
        on_progress: Callable[[int, int], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> AsyncStream[ChatCompletionChunk]: ...

    @overload
    def chat(
        self,
        messages: Any,
        options: GenerateOptions | None = None,
        *,
        stream: bool,
        on_progress: Callable[[int, int], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Awaitable[ChatCompletion] | AsyncStream[ChatCompletionChunk]: ...

    @with_fields_of(GenerateOptions)
    def chat(
        self,
        messages: Any,
        options: GenerateOptions | None = None,
        *,
        stream: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Awaitable[ChatCompletion] | AsyncStream[ChatCompletionChunk]:
        """Answer a conversation: await the result, or iterate with `async for` over it if `stream` is True.

        A stream may also be awaited: what is wrong with the request is raised then, before the first piece. Arguments
        and errors are those of `Qwen35.chat`.
        """
        if flag("stream", stream):
            return AsyncStream(
                self,
                lambda model: model.chat(messages, options, stream=True, on_progress=on_progress, **keywords),
            )
        return self._run(lambda: self._loaded().chat(messages, options, on_progress=on_progress, **keywords))

    @overload
    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        stream: Literal[False] = False,
        on_progress: Callable[[int, int], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Awaitable[Completion]: ...

    @overload
    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        stream: Literal[True],
        on_progress: Callable[[int, int], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> AsyncStream[CompletionChunk]: ...

    @with_fields_of(GenerateOptions, RAW_OPTIONS)
    def generate(
        self,
        prompt: str,
        options: GenerateOptions | None = None,
        *,
        stream: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Awaitable[Completion] | AsyncStream[CompletionChunk]:
        """Continue a text, as a whole or in pieces; arguments and errors are those of `Qwen35.generate`."""
        if flag("stream", stream):
            return AsyncStream(
                self, lambda model: model.generate(prompt, options, stream=True, on_progress=on_progress, **keywords)
            )
        return self._run(lambda: self._loaded().generate(prompt, options, on_progress=on_progress, **keywords))

    @with_fields_of(GenerateOptions, MANY_OPTIONS)
    async def generate_many(
        self,
        prompts: Iterable[Any],
        *,
        parallel: int = 4,
        return_exceptions: bool = False,
        on_result: Callable[[int, Completion], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> list[Any]:
        """Answer several prompts side by side; arguments and errors are those of `Qwen35.generate_many`."""

        def work() -> list[Any]:
            return self._loaded().generate_many(
                prompts, parallel=parallel, return_exceptions=return_exceptions, on_result=on_result, **keywords
            )

        return await self._run(work)

    async def count_tokens(self, text: str) -> int:
        """Count the tokens of a text."""
        model = await self.load()
        return model.count_tokens(text)

    async def cache_info(self) -> CacheInfo:
        """Return what the prefix cache holds."""
        return await self._run(lambda: self._loaded().cache_info())

    async def warm_up(self) -> None:
        """Do now what the first prompt would wait for, as `Qwen35.warm_up`."""
        await self._run(lambda: self._loaded().warm_up())

    def snapshot(self) -> Snapshot | None:
        """Return what the model does now and has done so far, as `Qwen35.snapshot`; None while it is not loaded."""
        return None if self._model is None or self._closed else self._model.snapshot()

    # ---- threads ----------------------------------------------------------------------------------------------

    def _loaded(self) -> Qwen35:
        """Load the model, in a thread of ours, unless it is."""
        with self._loading:
            if self._model is None and self._options is not None:
                self._model = Qwen35(self._options)
        assert self._model is not None
        return self._model

    def submit(self, work: Callable[[], Result], scope: Scope) -> Future[Result]:
        """Let a thread do some work.

        Raises:
            ClosedError: the model was closed.

        """

        def entered() -> Result:
            with scope.entered():
                try:
                    if scope.cancelled:
                        raise Cancelled
                    return work()
                except Cancelled:
                    raise ClosedError("model: it was closed; load it again") from None
                finally:
                    self._scopes.discard(scope)

        if self._closed:
            raise ClosedError("model: it was closed; load it again")
        self._scopes.add(scope)
        return self._threads.submit(entered)

    def cancel(self, scope: Scope) -> None:
        """End the work of a scope, after at most one call of llama.cpp."""
        self._scopes.discard(scope)
        scope.cancel()

    async def _run(self, work: Callable[[], Result]) -> Result:
        scope = Scope()
        future = self.submit(work, scope)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self.cancel(scope)
            raise

    async def aclose(self) -> None:
        """End all requests, with `ClosedError` where they are awaited, and free the model.

        A second call does nothing.
        """
        self._closed = True
        for scope in list(self._scopes):
            self.cancel(scope)
        self._threads.shutdown(wait=False)
        await asyncio.to_thread(self._free)

    def _free(self) -> None:
        self._threads.shutdown()
        if self._model is not None:
            self._model.close()


class AsyncStream(AsyncIterator[Piece], Generic[Piece]):
    """An answer in pieces, for `async for`; close it to stop early, at best with an `async with`."""

    def __init__(self, owner: AsyncQwen35, begin: Callable[[Qwen35], Stream[Piece]]) -> None:
        """Wrap a request, which begins when it is first awaited or read."""
        self._owner, self._begin = owner, begin
        self._scope = Scope()
        self._pieces: asyncio.Queue[Any] | None = None
        self._future: Future[None] | None = None
        self._started: asyncio.Event | None = None
        self._over = False

    def __await__(self) -> Generator[Any, None, AsyncStream[Piece]]:
        return self._start().__await__()

    async def _start(self) -> AsyncStream[Piece]:
        """Wait until the request is accepted."""
        started = self._submitted()
        try:
            await started.wait()
        except asyncio.CancelledError:
            self._end()
            raise
        if self._future is not None and self._future.done() and (error := self._future.exception()) is not None:
            self._over = True
            raise error
        return self

    def _submitted(self) -> asyncio.Event:
        if self._started is not None:
            return self._started
        loop = asyncio.get_running_loop()
        pieces, started = asyncio.Queue[Any](), asyncio.Event()
        owner, begin, scope = self._owner, self._begin, self._scope  # not self: a dropped stream ends the work

        def post(function: Callable[..., object], *arguments: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(function, *arguments)

        def work() -> None:
            with begin(owner._loaded()) as stream:
                post(started.set)
                for piece in stream:
                    post(pieces.put_nowait, piece)
            if scope.cancelled:
                raise Cancelled

        def done(future: Future[None]) -> None:
            end = _END if future.cancelled() or future.exception() is None else future.exception()
            post(pieces.put_nowait, end)
            post(started.set)

        self._future = owner.submit(work, scope)
        self._future.add_done_callback(done)
        self._pieces, self._started = pieces, started
        return started

    def __aiter__(self) -> AsyncStream[Piece]:
        return self

    async def __anext__(self) -> Piece:
        """Return the next piece; errors as of `Qwen35.chat` and `Stream`."""
        if self._over:
            raise StopAsyncIteration
        self._submitted()
        assert self._pieces is not None
        try:
            found = await self._pieces.get()
        except asyncio.CancelledError:
            self._end()
            raise
        if found is _END or isinstance(found, BaseException):
            self._over = True
            if isinstance(found, BaseException):
                raise found
            raise StopAsyncIteration
        piece: Piece = found
        return piece

    async def __aenter__(self) -> AsyncStream[Piece]:
        return await self._start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _end(self) -> None:
        self._over = True
        self._owner.cancel(self._scope)
        if self._future is not None:
            self._future.cancel()

    async def aclose(self) -> None:
        """End the answer here, and wait until the engine is free of it; a second call does nothing."""
        self._end()
        if self._future is not None and not self._future.done():
            with contextlib.suppress(BaseException):
                ended = asyncio.wrap_future(self._future)
                ended.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody else asks
                await asyncio.wait([ended])

    def __del__(self) -> None:
        if not self._over and self._future is not None and not self._future.done():
            self._end()
