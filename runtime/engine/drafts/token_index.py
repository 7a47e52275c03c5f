"""Find where the last tokens came before: chains of positions by the hash of two tokens, in bounded memory.

Source of the structure: the hash chains of LZ77 compressors (RFC 1951, section 4). The longest match among the newest
places is what a suffix tree would find in nearly all cases, at 8 bytes for each token.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

NOTHING = -1  # stands for other items: an image, or the end of a text
MAX_MATCH = 32  # tokens that are compared
TRIES = 24  # places that are compared
BULK = 64  # tokens from which on NumPy is faster
HASH_BITS = 16
BEHIND = 1 << 30  # how far away places count that are before the preferred one
_FIRST, _SECOND, _WORD = 2654435761, 2246822519, 0xFFFFFFFF


class TokenIndex:
    """Tokens, and where each pair of them comes.

    Attributes:
        tokens: the newest ones; `NOTHING` is never matched.
        dropped: how many older ones were dropped.

    """

    def __init__(self, max_tokens: int) -> None:
        """Hold at least `max_tokens` and at most twice as many."""
        self._max_tokens = max_tokens
        self.dropped = 0
        self._begin()

    def _begin(self) -> None:
        self.tokens = array("i")
        self._before = array("i")  # of each position, the last one before it after the same pair, or 0
        self._newest = array("i", bytes(4 << HASH_BITS))  # position after a pair, by its hash

    def __len__(self) -> int:
        """Count the tokens so far, also the dropped ones."""
        return self.dropped + len(self.tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens at the end."""
        if len(tokens) >= BULK:
            self._extend_many(tokens)
        else:
            for token in tokens:
                self._append(token)
        if len(self.tokens) > 2 * self._max_tokens:
            kept = self.tokens[-self._max_tokens :]
            self.dropped += len(self.tokens) - len(kept)
            self._begin()
            self._extend_many(kept)

    def _append(self, token: int) -> None:
        held, at = self.tokens, len(self.tokens)
        if at >= 2:
            key = _hash(held[at - 2], held[at - 1])
            self._before.append(self._newest[key])
            self._newest[key] = at
        else:
            self._before.append(0)
        held.append(token)

    def _extend_many(self, tokens: Sequence[int]) -> None:
        start = len(self.tokens)
        self.tokens.extend(tokens)
        held = np.frombuffer(self.tokens, np.int32).astype(np.int64)
        places = np.arange(max(start, 2), len(held))
        keys = ((held[places - 2] * _FIRST + held[places - 1] * _SECOND) & _WORD) >> (32 - HASH_BITS)
        del held
        newest = np.frombuffer(self._newest, np.int32)
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        first = np.append(True, keys[1:] != keys[:-1]) if len(keys) else np.empty(0, bool)
        before = np.where(first, newest[keys], np.append(0, places[:-1]) if len(keys) else 0)
        last = np.append(first[1:], True) if len(keys) else first
        newest[keys[last]] = places[last]
        chain = np.zeros(len(self.tokens) - start, np.int32)
        chain[places - start] = before
        self._before.frombytes(chain.tobytes())

    def find(self, tail: Sequence[int], near: int = 0) -> tuple[int, int]:
        """Find the place where the longest end of some tokens came before.

        Args:
            tail: the last tokens.
            near: of places that match equally well, the next one from here on is preferred, and then the newest.

        Returns:
            The position in `tokens` of what follows there, and how many tokens match, at least 2; (0, 0) without one.

        """
        if len(tail) < 2 or tail[-1] < 0 or tail[-2] < 0:
            return 0, 0
        held, before = self.tokens, self._before
        limit = min(len(tail), MAX_MATCH)
        place, best, found, distance = self._newest[_hash(tail[-2], tail[-1])], 1, 0, 0
        for _ in range(TRIES):
            if not place:
                break
            length, most = 0, min(limit, place)
            while length < most and held[place - 1 - length] == tail[-1 - length] >= 0:
                length += 1
            away = place - near if place >= near else BEHIND
            if length > best or (length == best > 1 and away < distance):
                best, found, distance = length, place, away
            place = before[place]
        return (found, best) if found else (0, 0)

    def following(self, place: int, count: int) -> list[int]:
        """Return up to `count` tokens from a position on; what goes beyond the end repeats what is drafted itself."""
        found: list[int] = []
        end = len(self.tokens)
        for at in range(place, place + count):
            token = self.tokens[at] if at < end else found[at - end]
            if token < 0:
                break
            found.append(token)
        return found


def _hash(first: int, second: int) -> int:
    return ((first * _FIRST + second * _SECOND) & _WORD) >> (32 - HASH_BITS)
