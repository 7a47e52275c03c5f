"""Change a header in place so that it is never lost: the new one is in a file beside it until it is written.

Whatever stops the change (a kill, a full or broken disk), `finish` makes it whole, and `pending` tells that it is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from qwen35_gguf.atomic_file import atomic_file
from qwen35_gguf.errors import GgufError, OutputError

SUFFIX = ".header.part"
MAGIC = b"qwen35 header 1\n"
DIGEST = 32  # bytes of a checksum


def journal_of(path: Path) -> Path:
    """Return the file that has the new header of one that is being changed."""
    return Path(f"{path}{SUFFIX}")


def pending(path: Path) -> bool:
    """Tell whether a change of a file's header was interrupted."""
    try:
        return journal_of(path).is_file()
    except OSError:  # the name leaves no room for that of a journal: there is none
        return False


def replace(path: Path, header: bytes) -> None:
    """Write a header of the same length over that of a file.

    Raises:
        OutputError: it cannot be written; the old one is restored, or else `finish` makes the file whole.
        OSError: the file cannot be opened for writing.

    """
    with path.open("r+b", buffering=0) as file:
        old = file.read(len(header))
        if old == header:
            return
        with atomic_file(journal_of(path)) as journal:
            journal.write(MAGIC + hashlib.sha256(header).digest() + header)
        try:
            _write(file.fileno(), old, header)
        except OSError as error:
            reason = error.strerror or error
            try:
                _write(file.fileno(), b"", old)
            except OSError:
                raise OutputError(
                    f"{path}: is half-written ({reason}); `qwen35 metadata {path.name}` makes it whole"
                ) from None
            _forget(path)
            raise OutputError(f"{path}: cannot be written ({reason}); make a copy with -o") from None
    _forget(path)


def finish(path: Path) -> bool:
    """Write the header of a change that was interrupted; return whether there was one.

    Raises:
        OutputError: it cannot be written.

    """
    if not pending(path):
        return False
    try:
        data = journal_of(path).read_bytes()
        header = data[len(MAGIC) + DIGEST :]
        if not data.startswith(MAGIC) or data[len(MAGIC) : len(MAGIC) + DIGEST] != hashlib.sha256(header).digest():
            raise GgufError(f"{journal_of(path)}: is damaged; download {path.name} again")
        with path.open("r+b", buffering=0) as file:
            _write(file.fileno(), b"", header)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); check its disk") from None
    _forget(path)
    return True


def _write(file: int, old: bytes, new: bytes) -> None:
    """Write what differs, to the disk."""
    first, last = 0, len(new)
    if len(old) == len(new):
        different = np.flatnonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))
        first, last = int(different[0]), int(different[-1]) + 1
    os.lseek(file, first, os.SEEK_SET)
    while first < last:
        first += os.write(file, new[first:last])
    os.fsync(file)


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):
        journal_of(path).unlink()
