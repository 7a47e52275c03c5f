"""What may be in the place of a file and is none, and a pipe that tells whether somebody opened it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # addresses have 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "a").write_text("a")


# By name: what makes it. Links to devices have no end, or no content.
ODD_FILES: dict[str, Callable[[Path], None]] = {
    "a folder": _folder,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": _socket,
}


@contextlib.contextmanager
def unopened_pipe(path: Path) -> Iterator[None]:
    """Make a pipe that nobody may open for reading: a reader would wait; here it gets an end, and is found.

    Raises:
        AssertionError: somebody did.

    """
    os.mkfifo(path)
    done, readers = threading.Event(), []

    def watch() -> None:
        while not done.wait(0.01):
            with contextlib.suppress(OSError):  # nobody reads
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                readers.append(path)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not readers, f"{path} was opened"
