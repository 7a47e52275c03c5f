"""A checksum of a checkpoint's weights that can be taken while they are read for something else.

Each tensor is hashed alone, in any order and by any thread; the checksum is that of the sorted list of their names,
types, shapes and hashes, behind config.json and tokenizer.json. So it does not depend on how the weights are split into
files, and no second read of the checkpoint is needed.
"""

from __future__ import annotations

import hashlib

from qwen35_gguf.convert.checkpoint import Checkpoint

PIECE = 4 << 20  # bytes; small enough that few mapped pages are held
LENGTH = 64  # hexadecimal digits
FILES = ("config.json", "tokenizer.json")


class WeightsDigest:
    """The checksum of one checkpoint, as it is taken."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._found: dict[str, str] = {}

    def add(self, source: str) -> None:
        """Hash a tensor; of a quantized one all that it is computed from."""
        for stored in self._checkpoint.stored(source):
            total = hashlib.sha256()
            raw = self._checkpoint.raw(stored)
            for start in range(0, raw.size, PIECE):
                piece = raw[start : start + PIECE]
                total.update(piece.data)
                self._checkpoint.release(piece)
            shape = "x".join(map(str, stored.shape))
            self._found[stored.name] = f"{stored.name} {stored.dtype} {shape} {total.hexdigest()}"

    def hexdigest(self) -> str:
        """Hash what was not read, and return the checksum: `LENGTH` hexadecimal digits."""
        for source, stored in self._checkpoint.tensors.items():
            if stored.name not in self._found:
                self.add(source)
        total = hashlib.sha256()
        for name in FILES:
            path = self._checkpoint.directory / name
            if path.is_file():
                total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        for line in self._checkpoint.origin:
            total.update(f"{line}\n".encode())
        for name in sorted(self._found):
            total.update(f"{self._found[name]}\n".encode())
        return total.hexdigest()
