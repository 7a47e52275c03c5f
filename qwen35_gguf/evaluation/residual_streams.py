"""The residual streams of a text before a layer, kept beside a file, from which an interrupted run resumes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import atomic_file, discard

Float = npt.NDArray[np.float32]


class Streams(NamedTuple):
    """The stream of all tokens, (tokens, hidden): of the model as it is, and after quantized layers."""

    exact: Float
    found: Float


def save(out: Path, layer: int, streams: Streams) -> None:
    """Keep the streams before a layer in OUT.streams-N, and no longer those before the last one.

    Raises:
        OutputError: the file cannot be written.

    """
    with atomic_file(_file(out, layer)) as file:
        np.save(file, np.stack(streams))
    discard(_file(out, layer - 1))


def load(out: Path, layer: int, shape: tuple[int, int]) -> Streams | None:
    """Map the streams before a layer, (tokens, hidden) each; None if they are not there."""
    try:
        found = np.load(_file(out, layer), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return Streams(found[0], found[1]) if found.shape == (2, *shape) and found.dtype == np.float32 else None


def remove(out: Path) -> None:
    """Remove the streams before all layers."""
    discard(*(path for path in list(out.parent.iterdir()) if path.name.startswith(f"{out.name}.streams-")))


def _file(out: Path, layer: int) -> Path:
    return out.with_name(f"{out.name}.streams-{layer}")
