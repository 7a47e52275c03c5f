"""States after prefixes of prompts, kept so that only what is new must be evaluated.

A Qwen3.5 has two kinds of memory. Attention layers keep keys and values of every position, which can be truncated
anywhere. DeltaNet layers keep one state that each token changes: it cannot be truncated, only restored from a copy. A
`RecurrentState` is such a copy (the partial state of llama.cpp), taken after a prefix. It has no keys and values: it
can be restored only while the context holds those of that very prefix: as long as the live sequence begins with it,
or a `SequenceState` that is loaded first. That one is everything, keys and values included: it restores a conversation
that the context no longer holds, and can be written to disk.

A budget of bytes holds both kinds. What goes first when it is exceeded, the least recently used first: recurrent
states whose prefix no sequence begins with any more; then those in the middle of a conversation, so that each keeps
the last one. Then whole conversations: first the one whose cells cost least to evaluate again for its bytes, where
what was not used for long counts less (Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency
caching policy", 1998, without the frequency).

Prefixes are compared item by item: a token id, or the hash of an image's pixels. Positions alone are not enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Item = int | str
ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

BLOCK = 1024  # items compared in one step
EVERY = 512  # items without a boundary after which there is one, or those of a call if it takes more
REMEMBERED = 16  # dropped sequences, for the reason of a miss


def common_prefix(first: Sequence[Item], second: Sequence[Item]) -> int:
    """Count the items at the beginning that two sequences share."""
    limit = min(len(first), len(second))
    for start in range(0, limit, BLOCK):
        stop = min(start + BLOCK, limit)
        if first[start:stop] != second[start:stop]:
            return next(i for i in range(start, stop) if first[i] != second[i])
    return limit


def boundaries(items: Sequence[Item], message_start: Item | None, every: int = EVERY) -> list[int]:
    """Return where calls end and states may be copied: before each message, and in long ones after `every` items.

    It depends only on what is before. So the same prompt is evaluated in the same calls whether or not a part of it is
    reused, and gives the same logits to the last bit.
    """
    found = []
    last = 0
    for i, item in enumerate(items):
        if i and (item == message_start or i - last == every):
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
        rank: the lowest goes first.

    """

    items: list[Item]
    n_pos: int
    n_cells: int
    state: ByteArray
    hidden: FloatArray | None = None
    rank: float = 0.0

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
        n_prompt: items with which the next prompt of the same conversation begins: up to the last message of the
            prompt, which the answer follows.
        rank: the lowest goes first.

    """

    items: list[Item]
    n_pos: int
    n_cells: int
    state: ByteArray
    hidden: FloatArray | None = None
    path: Path | None = None
    n_prompt: int = 0
    rank: float = 0.0

    @property
    def n_bytes(self) -> int:
        """The part of the budget that it takes."""
        return self.state.nbytes + 8 * len(self.items)


class PrefixCache:
    """States in memory, within a budget of bytes.

    Attributes:
        max_bytes: the budget.
        n_bytes: of the states.
        dropped: the items of sequences that were dropped to stay within the budget, the newest last.

    """

    def __init__(self, max_bytes: int) -> None:
        """Keep at most `max_bytes`; 0 keeps nothing."""
        self.max_bytes = max_bytes
        self._entries: list[RecurrentState | SequenceState] = []  # the most recently used last
        self.n_bytes = 0
        self._floor = 0.0  # the rank of the last that was dropped
        self.dropped: deque[list[Item]] = deque(maxlen=REMEMBERED)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, entry: object) -> bool:
        return entry in self._entries  # states are equal only to themselves

    def clear(self) -> None:
        """Drop all."""
        self._entries.clear()
        self.n_bytes = 0

    def add(self, entry: RecurrentState | SequenceState, held: Sequence[Sequence[Item]] = ()) -> None:
        """Keep a state, in place of one of the same kind and the same items; one over the budget is not kept.

        Args:
            entry: to keep. A sequence replaces those that it continues.
            held: sequences elsewhere, in the context and on disk, to which recurrent states may belong.

        """
        for known in list(self._entries):
            same = type(known) is type(entry) and known.items == entry.items
            whole = isinstance(known, SequenceState) and isinstance(entry, SequenceState)
            if same or (whole and continued_by(known, entry.items)):
                self.remove(known)
        if entry.n_bytes > self.max_bytes:
            if isinstance(entry, SequenceState):
                self.dropped.append(entry.items)
            return
        self._entries.append(entry)
        self._rank(entry)
        self.n_bytes += entry.n_bytes
        while self.n_bytes > self.max_bytes:
            victim = self._least_useful(held)
            self._floor = max(self._floor, victim.rank)
            self.remove(victim)
            if isinstance(victim, SequenceState):
                self.dropped.append(victim.items)

    def remove(self, entry: RecurrentState | SequenceState) -> None:
        """Drop a state."""
        self._entries.remove(entry)
        self.n_bytes -= entry.n_bytes

    def use_prefixes(self, items: Sequence[Item]) -> None:
        """Mark the states of prefixes of `items` as just used, the shortest last.

        So of one conversation the states in the middle are dropped first: its beginning serves the next one, too, and
        its end is added after this call.
        """
        used = [entry for entry in self._entries if begins_with(items, entry.items)]
        for entry in sorted(used, key=lambda entry: -len(entry.items)):
            self._entries.remove(entry)
            self._entries.append(entry)
            self._rank(entry)

    def _rank(self, entry: RecurrentState | SequenceState) -> None:
        """Rank a state that is used now, by the items to evaluate again without it for each of its bytes."""
        entry.rank = self._floor + entry.n_cells / max(1, entry.n_bytes)

    def recurrent_state(self, items: Sequence[Item], limit: int) -> RecurrentState | None:
        """Find the longest recurrent state of at most `limit` items whose prefix `items` begins with."""
        best = None
        for entry in self.recurrent_states():
            if len(entry.items) > limit or (best is not None and len(entry.items) <= len(best.items)):
                continue
            if begins_with(items, entry.items):
                best = entry
        return best

    def recurrent_states(self) -> Iterator[RecurrentState]:
        """Yield the recurrent states, the least recently used first."""
        return (entry for entry in self._entries if isinstance(entry, RecurrentState))

    def sequence_states(self) -> list[SequenceState]:
        """List the sequence states, the most recently used first."""
        return [entry for entry in reversed(self._entries) if isinstance(entry, SequenceState)]

    def _least_useful(self, held: Sequence[Sequence[Item]]) -> RecurrentState | SequenceState:
        """Choose what is dropped next; see the order at the top of this file."""
        sequences = [*held, *(state.items for state in self.sequence_states())]
        recurrent = list(self.recurrent_states())
        owned = set()
        last: dict[int, RecurrentState] = {}
        for number, items in enumerate(sequences):
            for state in recurrent:
                if begins_with(items, state.items):
                    owned.add(id(state))
                    if number not in last or len(state.items) > len(last[number].items):
                        last[number] = state
        kept = {id(state) for state in last.values()}
        newest = self._entries[-1]
        order = (
            [state for state in recurrent if id(state) not in owned],
            [state for state in recurrent if id(state) not in kept and state is not newest],
            self.sequence_states()[::-1],
            self._entries,
        )
        found = next(states for states in order if states)
        return min(found, key=lambda state: state.rank) if isinstance(found[0], SequenceState) else found[0]


def begins_with(items: Sequence[Item], prefix: Sequence[Item]) -> bool:
    """Report whether a sequence begins with a prefix."""
    n = len(prefix)
    if n > len(items) or (n and items[n - 1] != prefix[-1]):
        return False
    return common_prefix(items, prefix) == n


def continued_by(state: RecurrentState | SequenceState, items: Sequence[Item]) -> bool:
    """Report whether `items` are a later state of the same conversation: they begin with all of its prompt."""
    n_prompt = state.n_prompt if isinstance(state, SequenceState) else 0
    return begins_with(items, state.items[: n_prompt or len(state.items)])
