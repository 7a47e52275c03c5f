"""Pointers of llama.cpp: freed once, in the right order, and only by the process that made them.

A pointer is freed by `close`, when its object is garbage-collected, or at the end of the process, whichever comes
first, and never before those that were made from it: contexts go before their model.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from qwen35_gguf.errors import ClosedError, ForkError

_lock = threading.RLock()  # reentrant: the garbage collector may free one object while another is being freed


def check_process(pid: int) -> None:
    """Refuse to continue in a process that was forked from `pid`: it has none of llama.cpp's threads, and would hang.

    Raises:
        ForkError: this is another process.

    """
    if os.getpid() != pid:
        raise ForkError(
            f"llama.cpp: was loaded in process {pid} and cannot be used in one that was forked from it; load models in "
            'the child only, or start it with multiprocessing\'s "spawn"'
        )


class Handle:
    """A pointer, and how it is freed."""

    def __init__(self, owner: object, pointer: Any, free: Callable[[Any], object], *needs: Handle) -> None:
        """Free `pointer` when `owner` is collected, at the latest.

        Args:
            owner: the object that stands for it; `free` must not refer to it.
            pointer: of llama.cpp.
            free: is called with it, once.
            needs: what must outlive it.

        """
        self._pointer, self._free, self._needs = pointer, free, needs
        self._pid = os.getpid()
        self._dependents: set[int] = set()  # identities of handles, whose removal is atomic
        self._calls = 0
        self._closing = False
        for needed in needs:
            needed._dependents.add(id(self))
        weakref.finalize(owner, self.close)

    def __bool__(self) -> bool:
        return not self._closing

    @property
    def pointer(self) -> Any:
        """The pointer.

        Raises:
            ClosedError: it was freed.
            ForkError: this is a process that was forked from the one that made it.

        """
        check_process(self._pid)
        if self._pointer is None:
            raise ClosedError("model: it was closed; load it again")
        return self._pointer

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Any]:
        """Give the pointer to a call of llama.cpp; what happens to close it meanwhile is done after the call."""
        pointer = self.pointer
        self._calls += 1
        try:
            yield pointer
        finally:
            self._calls -= 1
            if self._closing:
                self.close()

    def close(self) -> None:
        """Free the pointer, or let the last call or dependent that still uses it do so; a second call does nothing."""
        self._closing = True
        if os.getpid() != self._pid:
            return  # the memory is the parent's, and another of its threads may have held the lock
        with _lock:
            if self._pointer is None or self._calls or self._dependents:
                return
            pointer, self._pointer = self._pointer, None
            self._free(pointer)
            for needed in self._needs:
                needed._dependents.discard(id(self))
                if needed._closing:
                    needed.close()
