"""Write GGUF files: the header, then the tensors in any number of pieces; a file appears when it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from qwen35_gguf.atomic_file import PendingFile, disk_errors, pending_file
from qwen35_gguf.errors import GgufError, OutputError
from qwen35_gguf.gguf_file.format import DEFAULT_ALIGNMENT, UINT32, encode_string
from qwen35_gguf.gguf_file.header import TensorInfo, contiguous, encode_header
from qwen35_gguf.gguf_file.keyvalue import STRING, KeyValue

PIECE = 4 << 20  # bytes copied in one step


class GGUFStream:
    """A GGUF file being written: header first, then the tensors in the order of `tensors`, in pieces of any size.

    Args:
        path: the final name.
        tensors: what the file will hold; their offsets are set here.
        force: replace an existing file.

    Raises:
        OutputError: on entering, as of `pending_file`.

    """

    def __init__(self, path: Path, tensors: Sequence[TensorInfo], *, force: bool = False) -> None:
        self.path = path
        self._tensors = contiguous(tensors, DEFAULT_ALIGNMENT)
        self._pending: AbstractContextManager[PendingFile] = pending_file(path, force=force)
        self._out: PendingFile | None = None
        self._remaining = [tensor.nbytes for tensor in tensors]
        self._data_start = 0

    def __enter__(self) -> GGUFStream:
        self._out = self._pending.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pending.__exit__(kind, error, trace)

    def write_header(self, metadata: Sequence[KeyValue]) -> None:
        """Write metadata and tensor descriptions, padded to the first tensor; of equal keys the last value counts."""
        entries = list({entry.key: entry for entry in metadata}.values())
        header = encode_header(entries, self._tensors, DEFAULT_ALIGNMENT)
        with disk_errors(self.path):
            self._file.write(header)
            self._file.flush()
        self._data_start = len(header)

    def amend(self, key: str, text: str) -> None:
        """Replace a string of the header by one of the same length, which was not known when it was written."""
        file, new = self._file, text.encode()
        begin = encode_string(key) + UINT32.pack(STRING) + encode_string(text)[: -len(new)]
        with disk_errors(self.path):
            end = file.tell()
            file.seek(0)
            at = file.read(self._data_start).find(begin)
            if at < 0:
                raise OutputError(f"{self.path}: has no {key} of {len(new)} bytes; please report this")
            file.seek(at + len(begin))
            file.write(new)
            file.seek(end)

    def write(self, data: np.ndarray[Any, Any]) -> None:
        """Append rows of the current tensor, as they are stored; its last byte is followed by the padding."""
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        with disk_errors(self.path):
            self._file.write(raw.data)
            self._remaining[0] -= raw.nbytes
            if self._remaining[0] <= 0:
                if self._remaining.pop(0) < 0:
                    raise OutputError(f"{self.path}: a tensor exceeds its planned size; please report this")
                self._file.write(b"\0" * (-self._file.tell() % DEFAULT_ALIGNMENT))

    def finish(self) -> None:
        """Flush to disk; the file is complete, but still under its temporary name."""
        if self._remaining:
            raise OutputError(f"{self.path}: {len(self._remaining)} tensors were not written; please report this")
        self._entered.finish()

    def publish(self) -> None:
        """Rename to the final name."""
        self._entered.publish()

    @property
    def part(self) -> Path:
        """The temporary name."""
        return self._entered.part

    @property
    def _file(self) -> IO[bytes]:
        return self._entered.file

    @property
    def _entered(self) -> PendingFile:
        if self._out is None:
            raise OutputError(f"{self.path}: is not open; please report this")
        return self._out


def write_gguf(
    path: Path,
    metadata: Sequence[KeyValue],
    tensors: Sequence[tuple[TensorInfo, np.ndarray[Any, Any]]],
    *,
    force: bool = True,
) -> None:
    """Write a whole GGUF file.

    Args:
        path: the final name.
        metadata: entries, in the order of the file.
        tensors: descriptions with their data as they are stored, in the order of the file.
        force: replace an existing file.

    Raises:
        OutputError: as `atomic_file`.

    """
    with GGUFStream(path, [info for info, _ in tensors], force=force) as stream:
        stream.write_header(metadata)
        for _, data in tensors:
            stream.write(data)
        stream.finish()
        stream.publish()


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
