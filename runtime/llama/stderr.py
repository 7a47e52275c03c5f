"""Capture what llama.cpp prints to the standard error stream instead of logging it."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2  # the file descriptor
_lock = threading.Lock()


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Collect the lines that are printed within the `with`, of this process as a whole.

    The list is filled at the end. Nothing is captured where there is no standard error stream.
    """
    lines: list[str] = []
    with _lock:
        try:
            kept = os.dup(STDERR)
        except OSError:
            yield lines
            return
        try:
            with tempfile.TemporaryFile() as file:
                if sys.stderr is not None:
                    sys.stderr.flush()
                os.dup2(file.fileno(), STDERR)
                try:
                    yield lines
                finally:
                    os.dup2(kept, STDERR)
                    file.seek(0)
                    lines += file.read().decode("utf-8", errors="replace").splitlines()
        finally:
            os.close(kept)
