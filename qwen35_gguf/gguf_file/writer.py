"""Write a GGUF file as a stream, and let it appear under its name only when it is complete.

The bytes go to a locked `<name>.part` beside the target, are flushed to disk, and renamed. Whatever stops the
conversion (an error, Ctrl-C, a kill, a full disk), the final name is never a partial file. A `.part` that a kill left
behind is overwritten by the next run.

Container: the gguf package writes the header, metadata and tensor infos; the tensor data is appended here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from qwen35_gguf.errors import OutputError
from qwen35_gguf.gguf_file.keyvalue import KeyValue

try:
    import fcntl
except ImportError:  # Windows: open files cannot be renamed over there, which protects as well
    fcntl = None  # type: ignore[assignment]

ALIGNMENT = 32


class TensorInfo(NamedTuple):
    """What the header says of a tensor. `shape` is in numpy order: the last entry is the row length."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    nbytes: int


class GGUFStream:
    """A GGUF file being written: header first, then the tensors in the order of `infos`, in pieces of any size."""

    def __init__(self, path: Path, arch: str, infos: Sequence[TensorInfo]) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self._gguf = _declare(arch, infos)
        self._gguf.kv_data[0].clear()  # general.architecture comes with the other metadata
        self._lock: IO[bytes] | None = None
        self._remaining = [info.nbytes for info in infos]
        self._data_start = 0

    def __enter__(self) -> GGUFStream:
        with _disk_errors(self.part):
            self._lock = self.part.open("ab")
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.close()
                self._lock = None
                raise OutputError(f"{self.part}: another conversion is writing it; wait for it to end") from None
        return self

    def write_header(self, metadata: Sequence[KeyValue]) -> None:
        """Write magic, metadata and tensor infos, and pad to the first tensor."""
        for entry in metadata:
            self._gguf.add_key_value(entry.key, entry.value, entry.type, sub_type=entry.element)
        with _disk_errors(self.part):
            self._gguf.write_header_to_file(self.part)
            self._gguf.write_kv_data_to_file()
            self._gguf.write_ti_data_to_file()
            self._pad(self._file.tell())
            self._data_start = self._file.tell()

    def amend(self, key: str, text: str) -> None:
        """Put a text into the header in place of one of the same length, which was not known when it was written."""
        name, new = key.encode(), text.encode()
        with _disk_errors(self.part):
            self._file.flush()
            with self.part.open("r+b") as file:
                header = file.read(self._data_start)
                begin = struct.pack("<Q", len(name)) + name + struct.pack("<IQ", GGUFValueType.STRING, len(new))
                at = header.find(begin)
                if at < 0:
                    raise OutputError(f"{self.path}: has no {key} of {len(new)} bytes; please report this")
                file.seek(at + len(begin))
                file.write(new)

    def write(self, data: np.ndarray[Any, Any]) -> None:
        """Append packed rows of the current tensor; after its last byte the file is padded for the next one."""
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        with _disk_errors(self.part):
            self._file.write(raw.data)
            self._remaining[0] -= raw.nbytes
            if self._remaining[0] <= 0:
                if self._remaining.pop(0) < 0:
                    raise OutputError(f"{self.path}: a tensor grew beyond its planned size; please report this")
                self._pad(self._file.tell())

    def finish(self) -> None:
        """Flush to disk; the file is complete, but still under its temporary name."""
        if self._remaining:
            raise OutputError(f"{self.path}: {len(self._remaining)} tensors were not written; please report this")
        with _disk_errors(self.part):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._gguf.close()

    def publish(self) -> None:
        """Rename to the final name."""
        with _disk_errors(self.path):
            self.part.replace(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):
                self._gguf.close()
            self.part.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    @property
    def _file(self) -> IO[bytes]:
        if not self._gguf.fout:
            raise OutputError(f"{self.path}: the header is not written yet; please report this")
        return self._gguf.fout[0]

    def _pad(self, position: int) -> None:
        self._file.write(b"\0" * (-position % ALIGNMENT))


def count_parameters(arch: str, infos: Sequence[TensorInfo]) -> tuple[int, int, int, int]:
    """Count the parameters: total, shared, one expert's, experts (as the gguf package defines them)."""
    total, shared, expert, count = _declare(arch, infos).get_total_parameter_count()
    return total, shared, expert, count


def check_space(directory: Path, needed: int) -> None:
    """Refuse before any work when the disk cannot hold `needed` bytes."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OutputError(f"{directory}: needs {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free; make room")


def _declare(arch: str, infos: Sequence[TensorInfo]) -> GGUFWriter:
    gguf = GGUFWriter(None, arch)
    for info in infos:
        gguf.add_tensor_info(info.name, info.shape, np.dtype(np.float32), info.nbytes, raw_dtype=info.type)
    return gguf


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"{path}: disk full; make room or choose another directory with -o") from None
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check the directory") from None
