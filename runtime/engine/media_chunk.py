"""An image in a prompt, as the engine takes it: something that takes cells and positions and can be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwen35_gguf.runtime.llama.context import Context


@dataclass(frozen=True, eq=False)
class MediaChunk:
    """An image or a pair of frames in a prompt, which is one item of a sequence.

    Attributes:
        key: equal for equal content.
        n_cells: of the context that it takes.
        n_pos: how far it moves the position of what follows.
        evaluate: evaluates it in a context at a position.

    """

    key: str
    n_cells: int
    n_pos: int
    evaluate: Callable[[Context, int], None]


Prompt = Sequence[int | MediaChunk]


def n_cells(prompt: Prompt) -> int:
    """Count the cells of the context that a prompt takes."""
    return sum(item.n_cells if isinstance(item, MediaChunk) else 1 for item in prompt)
