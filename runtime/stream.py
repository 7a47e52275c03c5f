"""An answer that is read piece by piece, from any thread."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Generic, NoReturn, SupportsIndex, TypeVar

from qwen35_gguf.errors import CopyError
from qwen35_gguf.runtime.turns import Call, Cancelled, Turns

Piece = TypeVar("Piece")


class Stream(Iterator[Piece], Generic[Piece]):
    """An answer in pieces: iterate over it, and close it to stop early, at best with a `with`.

    It belongs to the model, not to a thread. Other calls may run between two reads: what it needs to continue is kept
    meanwhile. Closing it, from any thread, frees the engine after at most one call of llama.cpp.
    """

    def __init__(
        self,
        pieces: Generator[Piece, None, None],
        call: Call,
        turns: Turns,
        turn: Callable[[Call], contextlib.AbstractContextManager[None]],
    ) -> None:
        """Wrap a generator.

        Args:
            pieces: runs the engine.
            call: the request.
            turns: of the model.
            turn: waits until the engine is the call's.

        """
        self._pieces, self._call, self._turns, self._turn = pieces, call, turns, turn
        self._pid = os.getpid()
        self._over = False

    def __iter__(self) -> Stream[Piece]:
        return self

    def __next__(self) -> Piece:
        """Return the next piece.

        Raises:
            ClosedError: the model was closed before the answer was complete.
            TimeLimitError: the request takes longer than its `timeout`.
            ForkError: this process was forked from the one that made the stream.
            Qwen35Error: llama.cpp fails.

        """
        self._turns.check_process()
        if self._over:
            raise StopIteration
        try:
            with self._turns.use(), self._turn(self._call):
                return next(self._pieces)
        except Cancelled:
            self.close()
            raise StopIteration from None
        except BaseException as error:
            closed = self._call.cancelled and isinstance(error, ValueError)  # by another thread, at this very moment
            self.close()
            if closed:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """End the answer here; a second call does nothing, and one in a forked process neither."""
        if self._over or os.getpid() != self._pid:
            return
        self._over = True
        self._turns.cancel(self._call)
        with contextlib.suppress(ValueError):  # it is being read: that read ends it
            self._pieces.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse copies and pickles, which would read and end the same answer."""
        raise CopyError("Stream: cannot be copied or pickled; read it where it is, or ask again")

    def __enter__(self) -> Stream[Piece]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
