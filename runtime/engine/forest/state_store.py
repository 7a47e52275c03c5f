"""Sequence states on disk: one file each, whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import SUFFIX as PART
from qwen35_gguf.atomic_file import atomic_file, remove_left_behind
from qwen35_gguf.errors import OutputError
from qwen35_gguf.runtime.engine.forest.prefix_cache import Item, SequenceState, common_prefix

log = logging.getLogger(__name__)

MAGIC = b"qwen35 state 1\n"
SUFFIX = ".state"
OWN_NAME = re.compile(r"[0-9a-f]{32}\.state")
MAX_HEADER = 1 << 28
MOST = (1 << 31) - 1  # of a token id, a position, a number of cells
STATE_BYTES = 8 << 30  # of the folder, by default
LEFT_BEHIND = 3600.0  # seconds after which a file that is not finished is one of a process that was killed


def make_folder(folder: Path) -> None:
    """Make a folder for states, if it does not exist; one that may only be read will do.

    Raises:
        OutputError: it cannot be made.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used for states ({error.strerror or error})") from None


class StateStore:
    """Sequence states in a folder, one file each. Damaged files and those of other models are ignored.

    Attributes:
        folder: where they are stored.
        identity: of the model and the settings of its context.
        max_bytes: the budget of the folder.
        states: those that are stored for this model, without their bytes; a list that is replaced, not changed, since
            the thread that writes and that of the engine both do it.
        works: whether states can be written; what could not be written once is not tried again.

    """

    def __init__(self, folder: Path, identity: str, max_bytes: int = STATE_BYTES) -> None:
        """Use a folder, and make it if it does not exist.

        Raises:
            OutputError: it cannot be made.

        """
        self.folder, self.identity, self.max_bytes = folder, identity, max_bytes
        make_folder(folder)
        self.works = True
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._changing = threading.Lock()
        self._remove_left_behind()
        self.states = list(self._stored())

    def forget(self, state: SequenceState) -> None:
        """Pass a state over from now on."""
        with self._changing:
            self.states = [each for each in self.states if each is not state]

    def covers(self, items: Sequence[Item]) -> int:
        """Return the most items at the beginning of `items` that a stored state shares."""
        while known := self.states:
            shared, number = max((common_prefix(state.items, items), i) for i, state in enumerate(known))
            path = known[number].path
            if not shared or (path is not None and path.exists()):
                return shared
            self.forget(known[number])  # another process has removed it
        return 0

    def path(self, items: Sequence[Item]) -> Path:
        """Return the file of a prefix."""
        key = json.dumps([self.identity, list(items)]).encode()
        return self.folder / f"{hashlib.sha256(key).hexdigest()[:32]}{SUFFIX}"

    def save(self, state: SequenceState) -> Path | None:
        """Write a state: whole or not at all. The oldest files are removed when the folder is over its budget.

        Returns:
            The file; None: it would be larger than the budget alone, and is not written.

        Raises:
            OutputError: it cannot be written.

        """
        hidden = np.empty(0, np.float32) if state.hidden is None else state.hidden
        parts = [state.state, np.ascontiguousarray(hidden).view(np.uint8)]
        header: dict[str, Any] = {
            "identity": self.identity,
            "items": state.items,
            "n_pos": state.n_pos,
            "n_cells": state.n_cells,
            "sizes": [part.nbytes for part in parts],
        }
        header["sha256"] = _digest(header, parts)
        text = json.dumps(header).encode()
        begin = MAGIC + len(text).to_bytes(8, "little") + text
        if len(begin) + sum(part.nbytes for part in parts) > self.max_bytes:
            return None
        path = self.path(state.items)
        with atomic_file(path, wait=True, mode=0o600) as file:  # it may hold a private conversation
            file.write(begin)
            for part in parts:
                file.write(part.data)
        gone = {path, *self._prune(path)}
        saved = SequenceState(state.items, state.n_pos, state.n_cells, np.empty(0, np.uint8), path=path)
        with self._changing:
            self.states = [*(each for each in self.states if each.path not in gone), saved]
        return path

    @property
    def busy(self) -> bool:
        """Whether a state is being written."""
        return self._writing is not None and not self._writing.done()

    def save_later(self, state: SequenceState) -> None:
        """Write a state in a thread of its own, so that no answer waits for the disk; not while it is `busy`.

        What cannot be written is a warning, and nothing is written any more.
        """
        self._writer = self._writer or ThreadPoolExecutor(1, thread_name_prefix="qwen35-states")
        self._writing = self._writer.submit(self._save, state)

    def _save(self, state: SequenceState) -> None:
        try:
            if self.save(state) is None:
                log.info("a state of %d bytes is not saved: state_bytes is %d", state.state.nbytes, self.max_bytes)
        except Exception as error:  # of the disk, or of too little memory: an answer is worth more than its state
            log.warning("%s; states are no longer saved", error if isinstance(error, OutputError) else repr(error))
            self.works = False

    def flush(self) -> None:
        """Wait until nothing is being written."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """Write what is being written, and end the thread."""
        if self._writer is not None:
            self._writer.shutdown()

    def newest(self, count: int | None = None) -> list[SequenceState]:
        """Return the states that were written or used last, the newest first; all without a count."""
        dated = []
        for state in self.states:
            with contextlib.suppress(OSError):
                if state.path is not None:
                    dated.append((state.path.stat().st_mtime, state))
        return [state for _, state in sorted(dated, key=lambda pair: -pair[0])[:count]]

    def _prune(self, newest: Path) -> list[Path]:
        """Remove the oldest files until the others are within the budget, and return which."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            if not OWN_NAME.fullmatch(path.name):  # of another program
                continue
            with contextlib.suppress(OSError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime, status.st_size, path))
        total, removed = sum(size for _, size, _ in found), []
        for _, size, path in sorted(found):
            if total <= self.max_bytes:
                break
            if path != newest:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                    total -= size
                    removed.append(path)
        return removed

    def _remove_left_behind(self) -> None:
        for path in self.folder.glob(f"*{SUFFIX}{PART}"):
            with contextlib.suppress(OSError):
                if OWN_NAME.fullmatch(path.stem) and time.time() - path.stat().st_mtime > LEFT_BEHIND:
                    remove_left_behind(path)

    def _stored(self) -> Iterator[SequenceState]:
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            header = self._header(path)
            if header is not None:
                items, n_pos, n_cells = header["items"], header["n_pos"], header["n_cells"]
                yield SequenceState(items, n_pos, n_cells, np.empty(0, np.uint8), path=path)

    def read(self, stored: SequenceState) -> SequenceState | None:
        """Read a state with its bytes; None if the file is gone or damaged, or memory does not hold it."""
        if stored.path is None:
            return None
        header = self._header(stored.path)
        if header is None or header["items"] != stored.items:
            return None
        try:
            with stored.path.open("rb") as file:
                file.seek(header["start"])
                parts = [np.frombuffer(file.read(size), np.uint8) for size in header["sizes"]]
        except (OSError, MemoryError):
            return None
        if _digest(header, parts) != header.get("sha256"):
            return None
        with contextlib.suppress(OSError):
            os.utime(stored.path)
        state, hidden = parts
        row = hidden.view(np.float32) if hidden.nbytes else None
        return SequenceState(stored.items, stored.n_pos, stored.n_cells, state, row, stored.path)

    def _header(self, path: Path) -> dict[str, Any] | None:
        """Read and check the header of a file; None if it does not belong to this model."""
        try:
            if not path.is_file():  # a pipe would wait for its other end
                return None
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
                and len(items) > 0
                and all(isinstance(item, str) or _is_count(item) for item in items)
                and all(_is_count(number) for number in (header["n_pos"], header["n_cells"]))
                and len(header["sizes"]) == 2
                and all(_is_count(number, 1 << 62) for number in header["sizes"])
                and header["sizes"][1] % 4 == 0
                and body + sum(header["sizes"]) == size
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return {**header, "start": body} if valid else None


def _is_count(value: object, most: int = MOST) -> bool:
    return type(value) is int and 0 <= value <= most


def _digest(header: Mapping[str, Any], parts: Sequence[npt.NDArray[np.uint8]]) -> str:
    """Digest the states and the header: a flipped digit of a token id is damage too."""
    described = {key: value for key, value in header.items() if key not in ("sha256", "start")}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for part in parts:
        digest.update(part.data)
    return digest.hexdigest()
