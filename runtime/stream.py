"""An answer that is read piece by piece, from any thread."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Generic, NoReturn, SupportsIndex, TypeVar

from qwen35_gguf.errors import CopyError
from qwen35_gguf.runtime.calls.call import Call, Cancelled
from qwen35_gguf.runtime.calls.lifetime import Lifetime

Piece = TypeVar("Piece")


class Stream(Iterator[Piece], Generic[Piece]):
    """An answer in pieces: iterate over it, and close it to stop early, at best with a `with`.

    It belongs to the model, not to a thread. It runs a few pieces ahead of its reader, and pauses then. Closing it,
    from any thread, frees the engine after at most one call of llama.cpp.
    """

    def __init__(self, pieces: Generator[Piece, None, None], call: Call, lifetime: Lifetime, owner: object) -> None:
        """Wrap a generator.

        Args:
            pieces: reads the call.
            call: the request.
            lifetime: of the model.
            owner: the model, which lives as long as the stream.

        """
        self._pieces, self._call, self._lifetime, self._owner = pieces, call, lifetime, owner
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
        self._lifetime.check_process()
        if self._over:
            raise StopIteration
        try:
            self._lifetime.check_open()
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
        self._call.cancel()
        with contextlib.suppress(ValueError):  # it is being read: that read ends it
            self._pieces.close()

    def __del__(self) -> None:
        if not getattr(self, "_over", True):
            self.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse copies and pickles, which would read and end the same answer."""
        raise CopyError("Stream: cannot be copied or pickled; read it where it is, or ask again")

    def __enter__(self) -> Stream[Piece]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
