"""States after prefixes of prompts, kept so that only what is new must be evaluated.

A Qwen3.5 has two kinds of memory. Attention layers keep keys and values of every position, which can be truncated
anywhere. DeltaNet layers keep one state that each token changes: it cannot be truncated, only restored from a copy. A
`RecurrentState` is such a copy (the partial state of llama.cpp), taken after a prefix. It has no keys and values: it
can be restored only while the context still holds those of that very prefix, which is so as long as the live sequence
begins with it. A `SequenceState` is everything, keys and values included: it restores a conversation that the context
no longer holds, and can be written to disk.

Prefixes are compared item by item: a token id, or the hash of an image's pixels. Positions alone are not enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Item = int | str
ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

BLOCK = 1024  # items compared in one step
EVERY = 4096  # items without a boundary after which there is one


def common_prefix(first: Sequence[Item], second: Sequence[Item]) -> int:
    """Count the items at the beginning that two sequences share."""
    limit = min(len(first), len(second))
    for start in range(0, limit, BLOCK):
        stop = min(start + BLOCK, limit)
        if first[start:stop] != second[start:stop]:
            return next(i for i in range(start, stop) if first[i] != second[i])
    return limit


def boundaries(items: Sequence[Item], message_start: Item | None) -> list[int]:
    """Return where calls end and states may be copied: before each message, and in long ones every 4,096 items.

    It depends only on what is before. So the same prompt is evaluated in the same calls whether or not a part of it is
    reused, and gives the same logits to the last bit.
    """
    found = []
    last = 0
    for i, item in enumerate(items):
        if i and (item == message_start or i - last == EVERY):
            found.append(i)
            last = i
    if message_start not in items and len(items) > 1 and last != len(items) - 1:
        found.append(len(items) - 1)  # so that a raw prompt can be continued
    return found


@dataclass(eq=False)
class RecurrentState:
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
        """The part of the budget that it takes."""
        return self.state.nbytes + 8 * len(self.items)


@dataclass(eq=False)
class SequenceState:
    """The whole memory of a sequence.

    Attributes:
        items: the sequence.
        n_pos: the position of what follows.
        n_cells: of the context that it takes.
        state: recurrent states, keys and values: bytes of llama.cpp. Empty while they are only on disk.
        hidden: (n_embd,) float32, as of a `RecurrentState`.
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
        """The part of the budget that it takes."""
        return self.state.nbytes + 8 * len(self.items)


class PrefixCache:
    """States in memory; the least recently used ones are dropped first when the budget is exceeded.

    Attributes:
        max_bytes: the budget.
        n_bytes: of the states.

    """

    def __init__(self, max_bytes: int) -> None:
        """Keep at most `max_bytes`; 0 keeps nothing."""
        self.max_bytes = max_bytes
        self._entries: list[RecurrentState | SequenceState] = []  # the most recently used last
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Drop all."""
        self._entries.clear()
        self.n_bytes = 0

    def add(self, entry: RecurrentState | SequenceState) -> None:
        """Keep a state, in place of one of the same kind and the same items; one over the budget is not kept."""
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

    def remove(self, entry: RecurrentState | SequenceState) -> None:
        """Drop a state."""
        self._entries.remove(entry)
        self.n_bytes -= entry.n_bytes

    def use_prefixes(self, items: Sequence[Item]) -> None:
        """Mark the states of prefixes of `items` as just used, the shortest last.

        So of one conversation the states in the middle are dropped first: its beginning serves the next one, too, and
        its end is added after this call.
        """
        used = [entry for entry in self._entries if common_prefix(entry.items, items) == len(entry.items)]
        for entry in sorted(used, key=lambda entry: -len(entry.items)):
            self._entries.remove(entry)
            self._entries.append(entry)

    def recurrent_state(self, items: Sequence[Item], limit: int) -> RecurrentState | None:
        """Find the longest recurrent state of at most `limit` items whose prefix `items` begins with."""
        best = None
        for entry in self._entries:
            if not isinstance(entry, RecurrentState) or len(entry.items) > limit:
                continue
            longer = best is None or len(entry.items) > len(best.items)
            if longer and common_prefix(entry.items, items) == len(entry.items):
                best = entry
        return best

    def sequence_states(self) -> list[SequenceState]:
        """List the sequence states, the most recently used first."""
        return [entry for entry in reversed(self._entries) if isinstance(entry, SequenceState)]
