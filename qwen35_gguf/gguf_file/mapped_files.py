"""Notice that a file that is mapped became shorter: reading beyond its new end would end the process.

A file that is replaced by another one under its name, as all commands here do it, stays as it was for those that have
it mapped. One that is truncated or written again does not: it is checked before each use, so that only a change within
that moment is not noticed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


class MappedFiles:
    """Files that are mapped, with the sizes that they had."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Open them; those that cannot be opened are not watched."""
        self._opened: list[tuple[Path, int, int]] = []
        for path in paths:
            with contextlib.suppress(OSError):
                file = os.open(path, os.O_RDONLY)
                self._opened.append((path, file, os.fstat(file).st_size))

    def close(self) -> None:
        """Close them; a second call does nothing."""
        opened, self._opened = self._opened, []
        for _, file, _ in opened:
            with contextlib.suppress(OSError):
                os.close(file)

    def shorter(self) -> Path | None:
        """Return the first file that is shorter than it was, or None."""
        for path, file, size in self._opened:
            with contextlib.suppress(OSError):
                if os.fstat(file).st_size < size:
                    return path
        return None
