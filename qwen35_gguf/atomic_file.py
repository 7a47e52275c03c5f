"""Files that appear under their name only when they are complete.

The bytes go to a locked `<name>.part` beside the target, are flushed to disk, and renamed. Whatever stops the work (an
error, Ctrl-C, a kill, a full disk), the final name is never a partial file. A `.part` that a kill left behind is
overwritten by the next run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qwen35_gguf.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows, where nobody can replace a file that is open
    fcntl = None  # type: ignore[assignment]

SUFFIX, LOCK = ".part", ".lock"
PIECE = 1 << 20  # bytes that are copied at a time
# Of network file systems that have no locks, or whose server of locks does not run.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class PendingFile:
    """A file being written: write to `file`, then call `finish`, then `publish`.

    Several files appear together when all of them are finished before the first is published.

    Attributes:
        path: the final name.
        part: the temporary name.
        file: open for reading and writing.

    """

    path: Path
    part: Path
    file: IO[bytes]

    def finish(self) -> None:
        """Flush to disk; the file is complete, but still under its temporary name."""
        with disk_errors(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())

    def publish(self) -> None:
        """Rename to the final name; a device or pipe of that name gets the bytes, and stays what it is."""
        with disk_errors(self.path):
            if fcntl is None:
                self.file.close()  # Windows does not rename an open file
            move(self.part, self.path)


@contextlib.contextmanager
def pending_file(path: Path, *, force: bool = False, wait: bool = False, mode: int = 0o666) -> Iterator[PendingFile]:
    """Begin a file; without `publish`, or after an error, nothing of it is left.

    Args:
        path: the final name; missing folders are made.
        force: replace an existing file.
        wait: wait for another process that is writing the same file, instead of refusing.
        mode: permissions of the file, reduced by the umask.

    Raises:
        OutputError: the file exists and `force` is not set, cannot be written, or is being written by another process.

    """
    if takes_bytes(path):
        with disk_errors(path):
            number, name = tempfile.mkstemp()
        try:
            with os.fdopen(number, "r+b") as temporary:
                yield PendingFile(path, Path(name), temporary)
        finally:
            Path(name).unlink(missing_ok=True)
        return
    if path.is_block_device() or path.is_socket():
        raise OutputError(f"{path}: is a disk or a socket; choose another name")
    check_absent(path, force=force)
    part = path.with_name(path.name + SUFFIX)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(part, mode, wait=wait)
    try:
        identity = os.fstat(file.fileno())
        try:
            with disk_errors(path):
                if identity.st_size:
                    file.truncate(0)
            yield PendingFile(path, part, file)
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(identity, part.stat()):  # after `publish` there is none
                    part.unlink()
    finally:
        with contextlib.suppress(OSError):  # of flushing what is not published
            file.close()


def _open_locked(part: Path, mode: int, *, wait: bool) -> IO[bytes]:
    """Open a file for reading and writing that no other process has open like this.

    Not "wb", which empties the file of the process that holds the lock, nor "ab", which cannot seek.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        if part.is_symlink():  # what it leads to would be emptied
            raise OutputError(f"{part}: is a link, where a temporary file is written; remove it")
        file = os.fdopen(os.open(part, flags, mode), "r+b")
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The process that held the lock may have published the file that was opened.
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        except BlockingIOError:
            file.close()
            raise OutputError(f"{part}: another process is writing it; wait for it to end") from None
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                return file
            file.close()
            raise
        except BaseException:
            file.close()
            raise
        file.close()


@contextlib.contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Let no other process make a file meanwhile: for work that leaves files beside it, from which it is resumed.

    Raises:
        OutputError: another process makes it, or the folder cannot be written to.

    """
    lock = path.with_name(path.name + LOCK)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(lock, 0o666, wait=False)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if fcntl is None:
                file.close()  # Windows does not remove an open file
            lock.unlink()
        file.close()


def discard(*paths: Path) -> None:
    """Remove files that are not needed any more; one that cannot be removed stays, as the work is done."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def remove_left_behind(part: Path) -> None:
    """Remove a temporary file that no process is writing any more."""
    with contextlib.suppress(OSError), part.open("rb") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()


@contextlib.contextmanager
def atomic_file(path: Path, *, force: bool = True, wait: bool = False, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Write a whole file: it appears under its name when the block ends, and not at all after an error.

    An existing device or pipe, such as /dev/stdout, is written directly.

    Args:
        path: the final name; missing folders are made.
        force: replace an existing file.
        wait: wait for another process that is writing the same file, instead of refusing.
        mode: permissions of the file, reduced by the umask.

    Yields:
        The file, open for writing bytes.

    Raises:
        OutputError: the file exists and `force` is not set, cannot be written, or is being written by another process.

    """
    if takes_bytes(path):
        with disk_errors(path), path.open("wb") as file:
            yield file
        return
    with pending_file(path, force=force, wait=wait, mode=mode) as pending:
        with disk_errors(path):
            yield pending.file
        pending.finish()
        pending.publish()


def write_text(path: Path, text: str, *, force: bool = True) -> None:
    """Write a whole text file in UTF-8, as `atomic_file`."""
    with atomic_file(path, force=force) as file:
        file.write(text.encode("utf-8"))


def takes_bytes(path: Path) -> bool:
    """Tell whether a path is a device or a pipe, as /dev/stdout, which is written to and never replaced.

    Raises:
        OutputError: the path is too long, or may not be looked at.

    """
    with disk_errors(path):
        return path.is_char_device() or path.is_fifo()


def move(part: Path, path: Path) -> None:
    """Give a whole file its name; a device or pipe of that name gets its bytes, and stays what it is.

    Raises:
        OSError: of the file system.
        OutputError: as of `takes_bytes`.

    """
    if takes_bytes(path):
        with part.open("rb") as file, path.open("wb") as device:
            shutil.copyfileobj(file, device, PIECE)
        part.unlink()
    else:
        part.replace(path)


def check_output(path: Path, *, inputs: Iterable[Path | None] = (), force: bool = False) -> None:
    """Refuse a file before the work that it is written with.

    Args:
        path: the file; a device or a pipe is written to directly.
        inputs: files that are read, of which it may not be one, even with `force`.
        force: replace an existing file.

    Raises:
        OutputError: it exists, is an input or a folder, or its folder cannot be written to.

    """
    if takes_bytes(path):
        return
    for one in inputs:
        if one is not None and one.exists() and path.exists() and one.samefile(path):
            raise OutputError(f"{path}: is read as well, and would be lost; choose another name")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    check_absent(path, force=force)
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or cannot be made, before the work.

    Raises:
        OutputError: with the reason.

    """
    found = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), Path())
    if not found.is_dir():
        raise OutputError(f"{folder}: {found} is not a folder; choose another with -o")
    with disk_errors(folder), tempfile.TemporaryFile(dir=found):
        pass


def check_absent(path: Path, *, force: bool = False) -> None:
    """Refuse an existing file, or link to one.

    Raises:
        OutputError: the file exists, and `force` is not set.

    """
    if not force and os.path.lexists(path):
        raise OutputError(f"{path}: exists already; use --force to replace it, or -o for another name")


def check_space(directory: Path, needed: int) -> None:
    """Refuse before any work when the disk cannot hold `needed` bytes.

    Raises:
        OutputError: the disk of `directory` has less space.

    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OutputError(f"{directory}: needs {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free; make room")


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
