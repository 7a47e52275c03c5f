"""Importance matrices: for each weight tensor, the mean square of every input column over a calibration text.

Source: llama.cpp tools/imatrix/imatrix.cpp (save_imatrix: the GGUF format, `NAME.in_sum2` and `NAME.counts`, and the
older .dat) and common/imatrix-loader.cpp (how both are read; an expert without inputs counts as all ones).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFValueType

from qwen35_gguf.errors import GgufError, ImatrixError
from qwen35_gguf.gguf_file.header import TensorInfo
from qwen35_gguf.gguf_file.keyvalue import ARRAY, STRING, KeyValue
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data
from qwen35_gguf.gguf_file.writer import write_gguf
from qwen35_gguf.json_file import printable

Float = npt.NDArray[np.float32]

TYPE = "general.type"
DATASETS, CHUNKS, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
UINT32 = GGUFValueType.UINT32
SUMS, COUNTS = ".in_sum2", ".counts"
LARGEST_SUM, MOST_CHUNKS = float(np.finfo(np.float32).max), 1 << 32  # below which chunks are
LONGEST_NAME, MOST_ENTRIES = 4096, 1 << 20  # limits for a .dat file, which has no other check


@dataclass
class Entry:
    """Sums of one tensor.

    Attributes:
        sums: (matrices, columns) float64, of the squares of the inputs; one matrix, or one for each expert.
        counts: (matrices,) float64, number of inputs.

    """

    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]

    def means(self) -> Float:
        """Return (matrices, columns) float32; ones for a matrix without inputs, or whose inputs were all zero."""
        counts = self.counts[:, None]
        known = (counts > 0) & self.sums.any(axis=1, keepdims=True)
        means = np.divide(self.sums, counts, out=np.ones_like(self.sums), where=known)
        return means.astype(np.float32)


@dataclass
class Imatrix:
    """Sums for the tensors of a model.

    Attributes:
        entries: by name of the weight tensor.
        datasets: names of the calibration texts.
        chunks: number of evaluated chunks of text.
        chunk_size: tokens of a chunk.
        extra: other metadata, strings only.
        path: the file that it was read from.
        sha256: checksum of that file.

    """

    entries: dict[str, Entry] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    chunks: int = 0
    chunk_size: int = 512
    extra: dict[str, str] = field(default_factory=dict)
    path: Path | None = None
    sha256: str = ""

    def add(self, name: str, squares: npt.NDArray[Any], counts: npt.NDArray[Any]) -> None:
        """Add sums of squares, (matrices, columns), over `counts` inputs, (matrices,)."""
        entry = self.entries.get(name)
        if entry is None:
            self.entries[name] = Entry(squares.astype(np.float64), counts.astype(np.float64))
        else:
            entry.sums += squares
            entry.counts += counts

    def importance(self, name: str, shape: tuple[int, ...]) -> Float | None:
        """Return the importance of a tensor's columns.

        Args:
            name: name of the tensor.
            shape: (rows, columns) or (experts, rows, columns).

        Returns:
            (1 or experts, columns) float32; None if there is no entry, or one that saw no input.

        Raises:
            ImatrixError: the entry has another shape: it belongs to another model.

        """
        entry = self.entries.get(name)
        if entry is None or not entry.counts.any():
            return None
        matrices, columns = (shape[0] if len(shape) == 3 else 1), shape[-1]
        if entry.sums.shape == (1, matrices * columns):  # a .dat file has the experts one after the other
            entry = Entry(entry.sums.reshape(matrices, columns), np.repeat(entry.counts, matrices))
        if entry.sums.shape != (matrices, columns):
            found, expected = " x ".join(map(str, entry.sums.shape)), f"{matrices} x {columns}"
            raise ImatrixError(
                f"{self.path}: {name} has {found} values, expected {expected}; it belongs to another model"
            )
        return entry.means()

    def unseen(self, names: Iterable[str]) -> dict[str, int]:
        """Count the experts without inputs, of the named tensors of which others had some."""
        found = {name: self.entries[name].counts for name in names if name in self.entries}
        return {name: int((counts == 0).sum()) for name, counts in found.items() if 0 < (counts == 0).mean() < 1}


def read(path: str | Path) -> Imatrix:
    """Read an importance matrix, GGUF or the older .dat.

    Raises:
        ImatrixError: the file is missing, damaged, not an importance matrix, or has negative or non-finite sums.

    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a device has no end
        raise ImatrixError(f"{path}: is not a file; name one made by `qwen35 imatrix`")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImatrixError(f"{path}: {error.strerror or error}; name a file made by `qwen35 imatrix`") from None
    try:
        with np.errstate(invalid="ignore"):  # some NaN are noticed where they are converted; all are refused below
            found = _read_gguf(path) if data[:4] == b"GGUF" else _read_dat(data)
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError, struct.error, TypeError, GgufError) as error:
        raise ImatrixError(f"{path}: is damaged, or not an importance matrix ({error}); make it again") from None
    for count in (found.chunks, found.chunk_size):
        if not 0 <= count < MOST_CHUNKS:
            raise ImatrixError(f"{path}: is damaged (a count of {count:,}); make it again")
    for name, entry in found.entries.items():
        for values in (entry.sums, entry.counts):
            if not np.isfinite(values).all() or (values < 0).any():
                raise ImatrixError(f"{path}: {printable(name)} has negative or non-finite sums; make it again")
    found.path, found.sha256 = path, hashlib.sha256(data).hexdigest()
    return found


def _read_gguf(path: Path) -> Imatrix:
    header = read_header(path)
    if header.value(TYPE) != "imatrix":
        raise ValueError("general.type is not imatrix")
    mapped = map_data(header)
    tensors: dict[str, npt.NDArray[np.float64]] = {}
    for tensor in header.tensors:
        if tensor.type != GGMLQuantizationType.F32:
            raise ValueError(f"{printable(tensor.name)} is {tensor.type.name}, not F32")
        tensors[tensor.name] = tensor_data(header, tensor, mapped).view("<f4").reshape(tensor.shape).astype(np.float64)
    found = Imatrix(
        datasets=[str(name) for name in header.value(DATASETS, [])],
        chunks=int(header.value(CHUNKS, 0)),
        chunk_size=int(header.value(CHUNK_SIZE, 0)),
        extra={e.key: e.value for e in header.entries if e.type == STRING and e.key != TYPE},
    )
    for name, sums in tensors.items():
        if name.endswith(SUMS):
            counted = tensors.get(name.removesuffix(SUMS) + COUNTS)
            if counted is None:
                raise ValueError(f"{printable(name)} has no counts")
            counts = counted.reshape(-1)
            found.entries[name.removesuffix(SUMS)] = Entry(sums.reshape(len(counts), -1), counts)
    if not found.entries:
        raise ValueError("it has no entries")
    return found


def _read_dat(data: bytes) -> Imatrix:
    at = 0

    def number() -> int:
        nonlocal at
        (value,) = struct.unpack_from("<i", data, at)
        at += 4
        return int(value)

    def text() -> str:
        nonlocal at
        length = number()
        if not 0 <= length <= LONGEST_NAME or at + length > len(data):
            raise ValueError("the length of a name is out of range")
        at += length
        return data[at - length : at].decode("utf-8")

    found = Imatrix()
    count = number()
    if not 0 < count <= MOST_ENTRIES:
        raise ValueError("the number of entries is out of range")
    for _ in range(count):
        name, calls, values = text(), number(), number()
        if values <= 0 or at + 4 * values > len(data):
            raise ValueError(f"{printable(name)} is truncated")
        sums = np.frombuffer(data, "<f4", values, at).astype(np.float64)
        at += 4 * values
        found.entries[name] = Entry(sums[None], np.array([float(max(1, calls))]))
    if at < len(data):
        found.chunks = number()
        found.datasets = [text()]
    return found


def write(imatrix: Imatrix, path: Path) -> None:
    """Write an importance matrix as llama-imatrix does; the file appears whole or not at all.

    Raises:
        OutputError: it cannot be written.

    """
    metadata = [
        KeyValue.of(TYPE, "imatrix", STRING),
        *([KeyValue.of(DATASETS, imatrix.datasets, ARRAY, STRING)] if imatrix.datasets else []),
        KeyValue.of(CHUNKS, imatrix.chunks, UINT32),
        KeyValue.of(CHUNK_SIZE, imatrix.chunk_size, UINT32),
        *(KeyValue.of(key, value, STRING) for key, value in sorted(imatrix.extra.items())),
    ]
    tensors = []
    for name, entry in sorted(imatrix.entries.items()):
        for suffix, values in ((SUMS, entry.sums), (COUNTS, entry.counts[:, None])):
            data = values.astype(np.float32)
            tensors.append((TensorInfo(name + suffix, data.shape, GGMLQuantizationType.F32), data))
    write_gguf(path, metadata, tensors)


def even(weights: Iterable[tuple[str, tuple[int, ...]]]) -> Imatrix:
    """Make an importance matrix in which all columns count alike, for types that have to have one.

    Args:
        weights: names and shapes, (rows, columns) or (experts, rows, columns); vectors are left out.

    """
    found = Imatrix(datasets=["none"], chunks=1)
    for name, shape in weights:
        if len(shape) > 1:
            matrices = shape[0] if len(shape) > 2 else 1
            found.add(name, np.ones((matrices, shape[-1])), np.ones(matrices))
    return found


def merge(several: Iterable[Imatrix]) -> Imatrix:
    """Add up the importance matrices of one model over several texts.

    Raises:
        ImatrixError: their tensors differ in shape, or the sums are larger than a file can hold.

    """
    total = Imatrix()
    for one in several:
        total.chunk_size = one.chunk_size
        total.chunks += one.chunks
        total.datasets += [name for name in one.datasets if name not in total.datasets]
        for name, entry in one.entries.items():
            known = total.entries.get(name)
            if known is not None and known.sums.shape != entry.sums.shape:
                raise ImatrixError(
                    f"{one.path}: {name} has another shape than in the other files; they are of two models"
                )
            total.add(name, entry.sums, entry.counts)
    values = (values for entry in total.entries.values() for values in (entry.sums, entry.counts))
    if total.chunks >= MOST_CHUNKS or any(found.max(initial=0.0) > LARGEST_SUM for found in values):
        raise ImatrixError("importance matrices: their sums are larger than a file can hold; merge fewer of them")
    return total
