"""Where a prompt leaves the known sequence that it resembles most, and comes back to it: what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen35_gguf.runtime.engine.forest.prefix_cache import Item

WINDOW = 64  # items within which the two meet again
SAME = 8  # items that are the same where they do


@dataclass(frozen=True)
class Divergence:
    """A change inside a prompt that is known otherwise.

    Attributes:
        at: items before it.
        message: number of the message, from 1; 0 outside of messages.
        begin: items before that message.
        known: what the known sequence has there.
        given: what the prompt has there.

    """

    at: int
    message: int
    begin: int
    known: tuple[Item, ...]
    given: tuple[Item, ...]


def find_divergence(
    known: Sequence[Item], given: Sequence[Item], shared: int, message_start: Item | None
) -> Divergence | None:
    """Find the change after the `shared` items with which both begin; None if the two do not meet again soon.

    `message_start` is the token that begins a message.
    """
    before, after = known[shared : shared + WINDOW + SAME], given[shared : shared + WINDOW + SAME]
    places: dict[tuple[Item, ...], int] = {}
    for i in range(len(after) - SAME + 1):
        places.setdefault(tuple(after[i : i + SAME]), i)
    best: tuple[int, int] | None = None
    for i in range(len(before) - SAME + 1):
        j = places.get(tuple(before[i : i + SAME]))
        if j is not None and (best is None or i + j < sum(best)):
            best = i, j
    if best is None:
        return None
    starts = [i for i, item in enumerate(given[:shared]) if item == message_start]
    begin = starts[-1] if starts else 0
    return Divergence(shared, len(starts), begin, tuple(before[: best[0]]), tuple(after[: best[1]]))
