"""How long a model lives: until it is closed and nobody is inside; and who may not use it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from qwen35_gguf.errors import BusyError, ClosedError, ForkError


@dataclass
class Lifetime:
    """Who uses a model.

    Attributes:
        name: of the model, for messages.
        closed: no call may begin any more.

    """

    name: str
    closed: bool = False
    _condition: threading.Condition = field(default_factory=threading.Condition)
    _pid: int = field(default_factory=os.getpid)
    _users: dict[int, int] = field(default_factory=dict)  # calls inside, of each thread
    _callbacks: set[int] = field(default_factory=set)  # threads that run a callback of a call
    _free: Callable[[], None] | None = None
    _freed: bool = False

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
    def callback(self) -> Iterator[None]:
        """Run a callback of a call."""
        me = threading.get_ident()
        self._callbacks.add(me)
        try:
            yield
        finally:
            self._callbacks.discard(me)

    def check_idle(self) -> None:
        """Raise `BusyError` in a callback of a call that is running: its answer would wait for itself."""
        if threading.get_ident() in self._callbacks:
            raise BusyError(f"{self.name}: a callback may not use the model that calls it; return first")

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
            raise self.closed_error()

    def closed_error(self) -> ClosedError:
        """Make the error of a model that was closed."""
        return ClosedError(f"{self.name}: the model was closed; load it again")

    def close(self, end: Callable[[], None], free: Callable[[], None]) -> None:
        """Let no call begin, and free the model after those that run.

        It returns when that is done; called by a callback of a running call, without waiting.

        Args:
            end: ends what streams or waits.
            free: frees the model; it is called once.

        """
        if os.getpid() != self._pid:
            self.closed = True  # the parent's model is the parent's to free
            return
        with self._condition:
            self.closed = True
            self._free = self._free or free
        end()
        with self._condition:
            self._condition.notify_all()
            self._free_if_unused()
            while not self._freed and threading.get_ident() not in self._users:
                self._condition.wait()

    def _free_if_unused(self) -> None:
        if self._free is not None and not self._users and not self._freed:
            self._freed = True
            self._free()
