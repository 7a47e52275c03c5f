"""An image in a prompt, as the engine takes it: something that takes cells and positions and can be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwen35_gguf.runtime.llama.context import Context


@dataclass(frozen=True)
class Place:
    """Where a media chunk goes.

    Attributes:
        seq: the sequence.
        pos: the position at which the image begins.
        start: the first of its rows that is evaluated.
        stop: the row after the last.

    """

    seq: int
    pos: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class MediaChunk:
    """An image or a pair of frames in a prompt, which is one item of a sequence.

    Attributes:
        key: equal for equal content.
        n_cells: of the context that it takes, a row each.
        n_pos: how far it moves the position of what follows.
        evaluate: evaluates some of its rows in a context.
        encode: makes what `evaluate` needs, once for each content; it takes long, and any thread may call it.
        encoded: whether that is done.

    """

    key: str
    n_cells: int
    n_pos: int
    evaluate: Callable[[Context, Place], None]
    encode: Callable[[], object] = lambda: None
    encoded: Callable[[], bool] = lambda: True


Prompt = Sequence[int | MediaChunk]


def n_cells(prompt: Prompt) -> int:
    """Count the cells of the context that a prompt takes."""
    return sum(item.n_cells if isinstance(item, MediaChunk) else 1 for item in prompt)
