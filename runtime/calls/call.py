"""A request as its caller sees it: what the engine's thread gives, read by any thread."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from qwen35_gguf.errors import TimeLimitError

RUN_AHEAD = 32  # unread pieces of a stream, after which it pauses
# Seconds without a read after which a paused stream gives way: to a call of another thread, and to one of the thread
# that read it last, which cannot read it now (but a pool may read it on another thread soon).
IDLE, IDLE_OWN = 0.5, 0.02


class Cancelled(Exception):  # noqa: N818 (never leaves the runtime)
    """A call was cancelled."""


class Scope:
    """What ends together: all calls that are begun in it.

    Attributes:
        cancelled: whether they end.

    """

    def __init__(self) -> None:
        """Begin with no calls."""
        self.cancelled = False
        self._calls: list[Call] = []

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let the calls that this thread begins belong to the scope."""
        _thread.scope = self
        try:
            yield
        finally:
            _thread.scope = None

    def take(self, call: Call) -> None:
        """Let a call belong to it."""
        self._calls.append(call)
        if self.cancelled:
            call.cancel()

    def cancel(self) -> None:
        """End all of its calls, now and later."""
        self.cancelled = True
        for call in list(self._calls):
            call.cancel()


class _Thread(threading.local):
    """The scope of each thread."""

    scope: Scope | None = None


_thread = _Thread()
_waiting_threads: dict[int, int] = {}  # calls that wait for their first event, of each thread


class Call:
    """A request, from its first token to its last.

    Attributes:
        streaming: whether it is read piece by piece.
        cancelled: whether it was closed.

    """

    def __init__(self, timeout: float | None = None, *, streaming: bool = False) -> None:
        """Begin now; `timeout` seconds are the most that it takes."""
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self.streaming, self.cancelled = streaming, False
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reader, self._read_at = threading.get_ident(), time.monotonic()
        self._stop: Callable[[], None] | None = None
        self._wake: Callable[[], None] = lambda: None
        if _thread.scope is not None:
            _thread.scope.take(self)

    def begin(self, stop: Callable[[], None], wake: Callable[[], None]) -> None:
        """Note how the engine is stopped, and how it is woken when more is welcome."""
        self._stop, self._wake = stop, wake
        if self.cancelled:
            stop()

    # ---- the engine's side ---------------------------------------------------------------------------------------

    def put(self, event: object) -> None:
        """Give the caller something."""
        self._events.put(event)

    def wants(self) -> bool:
        """Report whether more is welcome."""
        return not self.streaming or self._events.qsize() < RUN_AHEAD

    def yields(self) -> bool:
        """Report whether it gives way while it wants nothing: it was not read for a while."""
        idle = IDLE_OWN if self._reader in _waiting_threads else IDLE
        return time.monotonic() - self._read_at > idle

    # ---- the caller's side ---------------------------------------------------------------------------------------

    def get(self) -> Any:
        """Wait for what the engine gives next.

        Raises:
            TimeLimitError: the call takes too long; it is cancelled then.
            Cancelled: it was.

        """
        me = self._reader = threading.get_ident()
        try:
            event = self._events.get_nowait()
        except queue.Empty:
            event = self._wait(me)
        self._read_at = time.monotonic()
        if self._deadline is not None and self._read_at >= self._deadline:
            raise self._late()
        if self.streaming and self._events.qsize() == RUN_AHEAD - 1:
            self._wake()
        if isinstance(event, Cancelled):
            self._events.put(event)  # for others that read
            raise event
        return event

    def _wait(self, me: int) -> Any:
        _waiting_threads[me] = _waiting_threads.get(me, 0) + 1
        if self.streaming:
            self._wake()  # the engine may have seen a full queue just before others were read
        try:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            return self._events.get(timeout=left)
        except queue.Empty:
            raise self._late() from None
        finally:
            _waiting_threads[me] -= 1
            if not _waiting_threads[me]:
                del _waiting_threads[me]

    def _late(self) -> TimeLimitError:
        self.cancel()
        return TimeLimitError(f"request: is not done after timeout={self._timeout:g} s; allow more time or less work")

    def cancel(self) -> None:
        """End it where it is, from any thread: the engine is free of it after at most one call of llama.cpp."""
        if self.cancelled:
            return
        self.cancelled = True
        self._events.put(Cancelled())
        if self._stop is not None:
            self._stop()
