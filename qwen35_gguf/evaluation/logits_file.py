"""The log-probabilities of a reference in the format of llama-perplexity: two bytes for each token of the vocabulary.

A row is a float32 step and a float32 minimum, then 16-bit multiples of the step above the minimum; values more than 16
nats below the most likely token are at the minimum.

Source: llama.cpp tools/perplexity/perplexity.cpp (`--save-all-logits`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import atomic_file
from qwen35_gguf.errors import LogitsError
from qwen35_gguf.quant.divergence import Floats, log_softmax

MAGIC = b"_logits_"
DEPTH, STEPS = np.float32(16), np.float32(65535)
HEAD = struct.Struct("<Iii")
LARGEST = 1 << 24  # of chunk sizes and vocabularies


def scored(chunk: int) -> int:
    """Return the number of scored rows of a chunk: those of its second half that have a next token."""
    return chunk - 1 - chunk // 2


@dataclass(frozen=True)
class Header:
    """The tokens that a file has log-probabilities for.

    Attributes:
        chunk: tokens of a chunk.
        vocabulary: number of tokens of the vocabulary.
        tokens: (chunks, chunk) int32.

    """

    chunk: int
    vocabulary: int
    tokens: npt.NDArray[np.int32]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the file."""
        return 2 * (2 * ((self.vocabulary + 1) // 2) + 4)

    @property
    def start(self) -> int:
        """Offset of the first row."""
        return len(MAGIC) + HEAD.size + self.tokens.nbytes


def encode(logits: Floats) -> npt.NDArray[np.uint8]:
    """Encode (rows, vocabulary) logits as (rows, row_bytes) uint8 of a file."""
    rows, vocabulary = logits.shape
    normal = log_softmax(logits)
    peak = normal.max(-1, keepdims=True)
    least = np.maximum(normal.min(-1, keepdims=True), peak - DEPTH)
    step = (peak - least) / STEPS
    inverse = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
    out = np.zeros((rows, 4 + 2 * ((vocabulary + 1) // 2)), np.uint16)
    out[:, 4 : 4 + vocabulary] = np.rint(np.maximum(normal - least, 0) * inverse)
    out[:, :4].view(np.float32)[:] = np.concatenate([step, least], 1)
    return out.view(np.uint8)


def decode(rows: npt.NDArray[np.uint8], vocabulary: int) -> Floats:
    """Decode (rows, row_bytes) uint8 of a file to (rows, vocabulary) log-probabilities."""
    head = rows[:, :8].view(np.float32)
    return head[:, :1] * rows[:, 8 : 8 + 2 * vocabulary].view(np.uint16).astype(np.float32) + head[:, 1:]


@contextmanager
def writing(path: Path, header: Header) -> Iterator[IO[bytes]]:
    """Open a file for rows; it appears complete or not at all.

    Raises:
        OutputError: it cannot be written.

    """
    with atomic_file(path) as file:
        file.write(MAGIC + HEAD.pack(header.chunk, header.vocabulary, len(header.tokens)))
        file.write(header.tokens.astype("<i4").tobytes())
        yield file


def is_logits(path: Path) -> bool:
    """Whether a file begins as one of log-probabilities."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """Read the tokens of a file.

    Raises:
        LogitsError: it is not such a file, or truncated.

    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise LogitsError(f"{path}: is not a file of reference logits; make one with --save-logits")
            raw = file.read(HEAD.size)
            chunk, vocabulary, chunks = HEAD.unpack(raw) if len(raw) == HEAD.size else (0, 0, 0)
            sensible = 4 <= chunk < LARGEST and 0 < vocabulary < LARGEST and 0 < 4 * chunk * chunks < size
            raw = file.read(4 * chunk * chunks) if sensible else b""
            tokens = np.frombuffer(raw[: len(raw) // 4 * 4], "<i4")
    except OSError as error:
        raise LogitsError(f"{path}: {error.strerror or error}; name a GGUF or a file of reference logits") from None
    header = Header(chunk, vocabulary, tokens.reshape(-1, chunk)) if tokens.size and not tokens.size % chunk else None
    if (
        header is None
        or len(header.tokens) != chunks
        or size != header.start + chunks * scored(chunk) * header.row_bytes
        or not ((tokens >= 0) & (tokens < vocabulary)).all()
    ):
        raise LogitsError(f"{path}: is truncated or damaged; make it again with --save-logits")
    return header


def read_rows(file: IO[bytes], header: Header, number: int, rows: Sequence[int] | range) -> Floats:
    """Read some consecutive scored rows of chunk `number` as (rows, vocabulary) log-probabilities."""
    file.seek(header.start + (number * scored(header.chunk) + rows[0]) * header.row_bytes)
    raw = np.frombuffer(file.read(len(rows) * header.row_bytes), np.uint8).reshape(len(rows), -1)
    return decode(raw, header.vocabulary)
