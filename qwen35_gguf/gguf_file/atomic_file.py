"""A file that appears under its name only when it is complete.

The bytes go to a locked `<name>.part` beside the target, are flushed to disk, and renamed. Whatever stops the work (an
error, Ctrl-C, a kill, a full disk), the final name is never a partial file. A `.part` that a kill left behind is
overwritten by the next run.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qwen35_gguf.errors import GgufError, OutputError

try:
    import fcntl
except ImportError:  # Windows: open files cannot be renamed over there, which protects as well
    fcntl = None  # type: ignore[assignment]

PIECE = 4 << 20  # bytes copied at once


@dataclass(frozen=True)
class Draft:
    """A file being written: append to `file`, then `finish`, then `publish`."""

    path: Path
    part: Path
    file: IO[bytes]

    def finish(self) -> None:
        """Flush to disk; the file is complete, but still under its temporary name."""
        with disk_errors(self.part):
            self.file.flush()
            os.fsync(self.file.fileno())

    def publish(self) -> None:
        """Rename to the final name."""
        with disk_errors(self.path):
            self.part.replace(self.path)


@contextlib.contextmanager
def draft(path: Path, *, replace: bool = False) -> Iterator[Draft]:
    """Begin a file; without `publish`, or after an error, nothing of it is left.

    Raises:
        OutputError: it exists already and `replace` is not set, cannot be written, or is being written by another.

    """
    if not replace and path.exists():
        raise OutputError(f"{path}: exists already; use --force to replace it, or -o for another name")
    part = path.with_name(path.name + ".part")
    with disk_errors(part):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("ab")
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(f"{part}: another command is writing it; wait for it to end") from None
        with disk_errors(part):
            file.truncate(0)
        begun = Draft(path, part, file)
        try:
            yield begun
        finally:
            with contextlib.suppress(OSError):
                same = os.path.samestat(os.fstat(file.fileno()), part.stat())
                if same:  # after `publish` there is none
                    part.unlink()


def copy_bytes(source: IO[bytes], target: IO[bytes], count: int, name: Path) -> None:
    """Append the next `count` bytes of `source` to `target`, a piece at a time.

    Raises:
        GgufError: the source ends before.

    """
    while count:
        piece = source.read(min(count, PIECE))
        if not piece:
            raise GgufError(f"{name}: became shorter while it was read; download it again")
        target.write(piece)
        count -= len(piece)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into one line.

    Raises:
        OutputError: with the file and what to do.

    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"{path}: disk full; make room or choose another directory with -o") from None
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); check the directory") from None
