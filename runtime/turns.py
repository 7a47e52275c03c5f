"""Who may use a model: one call at a time, in the order of arrival; an open stream that nobody reads gives way.

Streams belong to the model, not to a thread: any thread may read one, and between two reads other calls may run. What
the stream had in the engine is kept until it is read again.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from qwen35_gguf.errors import BusyError, ClosedError, ForkError, TimeLimitError

# Seconds without a read after which an open stream gives way to a call: to one of another thread, and to one of the
# thread that read it last, which cannot read it now (but a pool may read it on another thread soon).
IDLE, IDLE_OWN = 0.5, 0.02


class Cancelled(Exception):  # noqa: N818 (never leaves the runtime)
    """A stream was closed while it was being read."""


@dataclass(eq=False)
class Scope:
    """What ends together: all calls that a thread begins in it.

    Attributes:
        cancelled: whether they end.

    """

    cancelled: bool = False

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let the calls of this thread belong to the scope."""
        _thread.scope = self
        try:
            yield
        finally:
            _thread.scope = None


class _Thread(threading.local):
    """The scope of each thread."""

    scope: Scope | None = None


_thread = _Thread()


@dataclass(eq=False)
class Call:
    """A request, from its first token to its last.

    Attributes:
        deadline: of `time.monotonic`; None: it may take as long as it takes.
        timeout: seconds, for the message.
        streaming: whether it is read piece by piece.
        cancelled: whether it was closed.
        reader: the thread that read it last.
        read_at: when that was over, of `time.monotonic`.
        started: whether it has used the engine.
        scope: in which it began.
        saved: what it needs to continue, if another call has used the engine since.

    """

    deadline: float | None = None
    timeout: float = 0.0
    streaming: bool = False
    cancelled: bool = False
    reader: int = 0
    read_at: float = 0.0
    started: bool = False
    saved: Any = None
    scope: Scope | None = field(default_factory=lambda: _thread.scope)

    @classmethod
    def within(cls, timeout: float | None, *, streaming: bool = False) -> Call:
        """Make a call that begins now and takes at most `timeout` seconds."""
        if timeout is None:
            return cls(streaming=streaming)
        return cls(time.monotonic() + timeout, timeout, streaming)

    def seconds_left(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


@dataclass
class Turns:
    """The queue of a model.

    Attributes:
        name: of the model, for messages.
        closed: no call may begin any more.

    """

    name: str
    closed: bool = False
    _condition: threading.Condition = field(default_factory=threading.Condition)
    _pid: int = field(default_factory=os.getpid)
    _waiting: deque[Call] = field(default_factory=deque)
    _running: Call | None = None
    _users: dict[int, int] = field(default_factory=dict)  # calls inside, of each thread
    _live: weakref.ref[Call] | None = None  # whose sequence is in the engine
    _free: Callable[[], None] | None = None
    _freed: bool = False

    # ---- entering ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Keep the model from being freed meanwhile.

        Raises:
            ClosedError: it was closed.
            ForkError: this process was forked from the one that loaded it.

        """
        self.check_process()
        me = threading.get_ident()
        with self._condition:
            self.check_open()
            self._users[me] = self._users.get(me, 0) + 1
        try:
            yield
        finally:
            with self._condition:
                self._users[me] -= 1
                if not self._users[me]:
                    del self._users[me]
                self._free_if_unused()
                self._condition.notify_all()

    @contextlib.contextmanager
    def turn(self, call: Call, *, engine: bool = True) -> Iterator[Call | None]:
        """Wait until it is the call's turn; give the call that the engine served last, if it is still there.

        Args:
            call: that wants to continue.
            engine: whether it uses the engine; afterwards the engine holds the call's sequence.

        Raises:
            ClosedError: the model was closed.
            TimeLimitError: the call waited too long.
            BusyError: the caller is a callback of the call that is running.
            Cancelled: it was closed while it waited.

        """
        with self._condition:
            if self._running is not None and self._running.reader == threading.get_ident():
                raise BusyError(f"{self.name}: a callback may not use the model that calls it; return first")
            self._waiting.append(call)
            try:
                while (seconds := self._seconds_to_wait(call, engine)) is None or seconds > 0:
                    self.check(call)
                    left = call.seconds_left()
                    self._condition.wait(min((s for s in (seconds, left) if s is not None), default=None))
                self.check(call)
            finally:
                self._waiting.remove(call)
                self._condition.notify_all()
            other = self._live() if self._live is not None else None
            self._running, call.reader = call, threading.get_ident()
            if engine:
                self._live = weakref.ref(call)
        try:
            yield other
        finally:
            with self._condition:
                self._running, call.read_at = None, time.monotonic()
                self._condition.notify_all()

    def forget(self) -> None:
        """Note that the engine is a new one, which holds no call's sequence."""
        self._live = None

    def _seconds_to_wait(self, call: Call, engine: bool) -> float | None:
        """Return 0 if it is the call's turn, seconds after which it may be, None: as soon as something changes."""
        if self._running is not None:
            return None
        live = self._live() if self._live is not None else None
        if live is call:
            return 0.0
        if self._waiting[0] is not call:
            return None
        if live is None or not live.streaming or not engine:
            return 0.0
        idle = IDLE_OWN if live.reader == threading.get_ident() else IDLE
        return max(0.0, live.read_at + idle - time.monotonic())

    # ---- checks --------------------------------------------------------------------------------------------------

    def check_process(self) -> None:
        """Raise `ForkError` in another process than the one that loaded the model."""
        if os.getpid() != self._pid:
            raise ForkError(
                f"{self.name}: was loaded by process {self._pid} and cannot be used in one forked from it; load it in "
                'each process, or start them with multiprocessing\'s "spawn"'
            )

    def check_open(self) -> None:
        """Raise `ClosedError` if the model was closed."""
        if self.closed:
            raise ClosedError(f"{self.name}: the model was closed; load it again")

    def check(self, call: Call) -> None:
        """Raise what ends a call: it was closed or is late, or it is a stream or waits, and the model was closed."""
        if call.cancelled or (call.scope is not None and call.scope.cancelled):
            raise Cancelled
        if call.streaming or self._running is not call:
            self.check_open()
        if call.seconds_left() == 0:
            raise TimeLimitError(f"request: is not done after timeout={call.timeout:g} s; allow more time or less work")

    # ---- the end -------------------------------------------------------------------------------------------------

    def cancel(self, call: Call) -> None:
        """End a call where it is: it does not begin any more, or ends after what llama.cpp computes now."""
        call.cancelled, call.streaming, call.saved = True, False, None
        self._notify()

    def cancel_scope(self, scope: Scope) -> None:
        """End all calls of a scope, now and later."""
        scope.cancelled = True
        self._notify()

    def _notify(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def close(self, free: Callable[[], None]) -> None:
        """Let no call begin, end those that stream or wait, and free the model after those that run.

        It returns when that is done; called by a callback of a running call, without waiting.

        Args:
            free: frees the model; it is called once.

        """
        if os.getpid() != self._pid:
            self.closed = True  # the parent's model is the parent's to free
            return
        with self._condition:
            self.closed = True
            self._free = self._free or free
            self._condition.notify_all()
            self._free_if_unused()
            while not self._freed and threading.get_ident() not in self._users:
                self._condition.wait()

    def _free_if_unused(self) -> None:
        if self._free is not None and not self._users and not self._freed:
            self._freed = True
            self._free()
