"""What was evaluated before, kept so that only what is new has to be evaluated.

A Qwen3.5 has two memories. Attention layers keep keys and values of every position: cutting them off at a position is
free. DeltaNet layers keep one state that each token changes: it cannot be cut back, only put back from a copy. A
`Checkpoint` is such a copy (the partial state of llama.cpp), taken after a prefix. It holds nothing of the attention
layers: it can be put back only while the context still has the keys and values of that very prefix, which is so as long
as the live sequence begins with it. A `Snapshot` is everything, also keys and values: it brings back a conversation
that the context no longer holds, and can be written to disk.

Prefixes are compared item by item: a token id, or the hash of a picture's pixels. Positions alone would not do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import atomic_file
from qwen35_gguf.errors import OutputError

Item = int | str
ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

MAGIC = b"qwen35 state 1\n"
SUFFIX = ".state"
COMPARED_AT_ONCE = 1024
SAMPLES, SAMPLE_BYTES = 16, 1 << 16
MAX_HEADER = 1 << 28


def common_prefix(first: Sequence[Item], second: Sequence[Item]) -> int:
    """Count the items at the beginning that two sequences share."""
    limit = min(len(first), len(second))
    for start in range(0, limit, COMPARED_AT_ONCE):
        stop = min(start + COMPARED_AT_ONCE, limit)
        if first[start:stop] != second[start:stop]:
            return next(i for i in range(start, stop) if first[i] != second[i])
    return limit


@dataclass(eq=False)
class Checkpoint:
    """The recurrent states after a prefix.

    Attributes:
        items: the prefix.
        n_pos: the position of what follows.
        n_cells: of the context that the prefix takes.
        state: bytes of llama.cpp.
        hidden: (n_embd,) float32, the last hidden state, which the MTP head takes next; None without one.

    """

    items: list[Item]
    n_pos: int
    n_cells: int
    state: ByteArray
    hidden: FloatArray | None = None

    @property
    def n_bytes(self) -> int:
        """How much it counts in the budget."""
        return self.state.nbytes + 8 * len(self.items)


@dataclass(eq=False)
class Snapshot:
    """The whole memory of a sequence.

    Attributes:
        items: the sequence.
        n_pos: the position of what follows.
        n_cells: of the context that it takes.
        state: recurrent states, keys and values: bytes of llama.cpp. Empty while they are only on disk.
        hidden: (n_embd,) float32, as of a checkpoint.
        path: the file that it was read from.

    """

    items: list[Item]
    n_pos: int
    n_cells: int
    state: ByteArray
    hidden: FloatArray | None = None
    path: Path | None = None

    @property
    def n_bytes(self) -> int:
        """How much it counts in the budget."""
        return self.state.nbytes + 8 * len(self.items)


class PrefixCache:
    """Checkpoints and snapshots in memory; the least recently used go first when the budget is exceeded."""

    def __init__(self, max_bytes: int) -> None:
        """Keep at most `max_bytes`; 0 keeps nothing."""
        self.max_bytes = max_bytes
        self._entries: list[Checkpoint | Snapshot] = []  # the most recently used last
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.n_bytes = 0

    def add(self, entry: Checkpoint | Snapshot) -> None:
        """Keep an entry, in place of one of the same kind and the same items; one over the budget is not kept."""
        for known in self._entries:
            if type(known) is type(entry) and known.items == entry.items:
                self.remove(known)
                break
        if entry.n_bytes > self.max_bytes:
            return
        self._entries.append(entry)
        self.n_bytes += entry.n_bytes
        while self.n_bytes > self.max_bytes:
            self.remove(self._entries[0])

    def remove(self, entry: Checkpoint | Snapshot) -> None:
        """Drop an entry."""
        self._entries.remove(entry)
        self.n_bytes -= entry.n_bytes

    def use_prefixes(self, items: Sequence[Item]) -> None:
        """Mark what begins `items` as used just now, the shortest last.

        So of one conversation the states in the middle go first: its beginning serves the next one, too, and its end
        is added after this call.
        """
        used = [entry for entry in self._entries if common_prefix(entry.items, items) == len(entry.items)]
        for entry in sorted(used, key=lambda entry: -len(entry.items)):
            self._entries.remove(entry)
            self._entries.append(entry)

    def checkpoint(self, items: Sequence[Item], limit: int) -> Checkpoint | None:
        """Find the longest checkpoint of at most `limit` items that is a prefix of `items`."""
        best = None
        for entry in self._entries:
            if not isinstance(entry, Checkpoint) or len(entry.items) > limit:
                continue
            longer = best is None or len(entry.items) > len(best.items)
            if longer and common_prefix(entry.items, items) == len(entry.items):
                best = entry
        return best

    def snapshots(self) -> list[Snapshot]:
        """List the snapshots, the most recently used first."""
        return [entry for entry in reversed(self._entries) if isinstance(entry, Snapshot)]


# ---- on disk -----------------------------------------------------------------------------------------------------


def model_identity(path: Path, **settings: object) -> str:
    """Hash what tells one model file from another (size and samples of its content), and the settings of a state."""
    size = path.stat().st_size
    digest = hashlib.sha256(json.dumps([size, sorted(settings.items())], default=str).encode())
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(max(0, (size - SAMPLE_BYTES) * i // (SAMPLES - 1)))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


class StateFolder:
    """Snapshots in a folder, one file each. Damaged files and those of other models are passed over."""

    def __init__(self, folder: Path, identity: str, max_bytes: int = 8 << 30) -> None:
        """Use a folder, made if it is not there.

        Raises:
            OutputError: it cannot be made.

        """
        self.folder, self.identity, self.max_bytes = folder, identity, max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be used for states ({error.strerror or error})") from None

    def path(self, items: Sequence[Item]) -> Path:
        """Name the file of a prefix."""
        key = json.dumps([self.identity, list(items)]).encode()
        return self.folder / f"{hashlib.sha256(key).hexdigest()[:32]}{SUFFIX}"

    def save(self, snapshot: Snapshot) -> Path:
        """Write a snapshot: whole or not at all. The oldest files go when the folder is over its budget.

        Raises:
            OutputError: it cannot be written.

        """
        hidden = np.empty(0, np.float32) if snapshot.hidden is None else snapshot.hidden
        parts = [snapshot.state, np.ascontiguousarray(hidden).view(np.uint8)]
        header: dict[str, Any] = {
            "identity": self.identity,
            "items": snapshot.items,
            "n_pos": snapshot.n_pos,
            "n_cells": snapshot.n_cells,
            "sizes": [part.nbytes for part in parts],
        }
        header["sha256"] = _digest(header, parts)
        text = json.dumps(header).encode()
        path = self.path(snapshot.items)
        with atomic_file(path, wait=True, mode=0o600) as file:  # readable for its owner only: it holds prompts
            file.write(MAGIC + len(text).to_bytes(8, "little") + text)
            for part in parts:
                file.write(part.data)
        self._prune(path)
        return path

    def _prune(self, newest: Path) -> None:
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.max_bytes:
                break
            if path != newest:
                with contextlib.suppress(OSError):
                    path.unlink()
                    total -= size

    def listed(self) -> Iterator[Snapshot]:
        """Read what there is for this model, without the states (`read` gives them)."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            header = self._header(path)
            if header is not None:
                items, n_pos, n_cells = header["items"], header["n_pos"], header["n_cells"]
                yield Snapshot(items, n_pos, n_cells, np.empty(0, np.uint8), path=path)

    def read(self, listed: Snapshot) -> Snapshot | None:
        """Read a snapshot with its states; None if the file is gone or damaged."""
        if listed.path is None:
            return None
        header = self._header(listed.path)
        if header is None or header["items"] != listed.items:
            return None
        try:
            with listed.path.open("rb") as file:
                file.seek(header["start"])
                parts = [np.frombuffer(file.read(size), np.uint8) for size in header["sizes"]]
        except OSError:
            return None
        if _digest(header, parts) != header.get("sha256"):
            return None
        with contextlib.suppress(OSError):
            os.utime(listed.path)
        state, hidden = parts
        row = hidden.view(np.float32) if hidden.nbytes else None
        return Snapshot(listed.items, listed.n_pos, listed.n_cells, state, row, listed.path)

    def _header(self, path: Path) -> dict[str, Any] | None:
        """Read and check the header of a file; None if it is not one of this model's."""
        try:
            with path.open("rb") as file:
                start = file.read(len(MAGIC) + 8)
                length = int.from_bytes(start[len(MAGIC) :], "little")
                if start[: len(MAGIC)] != MAGIC or length > MAX_HEADER:
                    return None
                header = json.loads(file.read(length))
                size = os.fstat(file.fileno()).st_size
            body = len(start) + length
            items = header["items"]
            valid = (
                header["identity"] == self.identity
                and isinstance(items, list)
                and all(isinstance(item, int | str) for item in items)
                and all(isinstance(header[key], int) for key in ("n_pos", "n_cells"))
                and len(header["sizes"]) == 2
                and header["sizes"][1] % 4 == 0
                and body + sum(header["sizes"]) == size
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return {**header, "start": body} if valid else None


def _digest(header: Mapping[str, Any], parts: Sequence[npt.NDArray[np.uint8]]) -> str:
    """Digest the states and all that the header says of them: a flipped digit of a token id is damage too."""
    described = {key: value for key, value in header.items() if key not in ("sha256", "start")}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for part in parts:
        digest.update(part.data)
    return digest.hexdigest()
