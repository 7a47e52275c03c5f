"""Draft with the MTP head: it predicts the next tokens, and the main model verifies them all in one call.

Exact by construction: a drafted token is never returned. The sampler chooses from the main model's own row each time,
as it would without drafts; a draft only decides whether the next row is already computed. At a temperature the head's
tokens are chosen with the random numbers with which the sampler will choose, so that both mostly agree (see
`runtime/llama/sampling/gumbel.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qwen35_gguf.runtime.context_spec import WAITING_ROWS
from qwen35_gguf.runtime.llama.batch import FloatArray, Part
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model


@dataclass
class Drafts:
    """The tokens that were drafted, and those of them that were accepted."""

    drafted: int = 0
    accepted: int = 0


class Drafter:
    """The MTP head's side of one sequence, in sync with the main model.

    The head's row at position p takes the token there and the main model's hidden state of p - 1. Rows wait in a
    buffer until drafts are wanted, so that a prompt, and steps without drafts, cost nothing but a copy. Of a long
    prompt the head sees the last rows only: its drafts can get worse by that, the output cannot.
    """

    def __init__(self, head: Context, n_embd: int, seq: int = 0) -> None:
        """Begin with nothing.

        Args:
            head: the context of the MTP head, of which all drafters take a sequence each.
            n_embd: width of a hidden state.
            seq: the sequence, in both contexts.

        """
        self.head, self.seq = head, seq
        self.hidden: FloatArray | None = None  # of the main model's last token
        self._end = 0  # position up to which rows were evaluated or wait
        self._tokens = np.zeros(WAITING_ROWS, np.int32)
        self._positions = np.zeros(WAITING_ROWS, np.int32)
        self._rows = np.zeros((WAITING_ROWS, n_embd), np.float32)
        self._waiting = 0

    def clear(self) -> None:
        """Empty the sequence and the buffer."""
        self.head.remove(0, seq=self.seq)
        self.hidden, self._end, self._waiting = None, 0, 0

    def rewind(self, pos: int, hidden: FloatArray | None) -> None:
        """Remove what is at `pos` and after; `hidden` is the main model's hidden state before it."""
        self._waiting = int(np.searchsorted(self._positions[: self._waiting], pos))
        self.head.remove(pos, seq=self.seq)
        self.hidden, self._end = hidden, min(self._end, pos)

    def sync(self, tokens: Sequence[int], pos: int, hidden: FloatArray) -> None:
        """Take tokens that the main model has evaluated at positions from `pos`, with their (tokens, n_embd) states."""
        n = len(tokens)
        for i in range(max(0, self._end - pos), n):
            before = hidden[i - 1] if i else self.hidden
            if before is not None:
                self._wait(tokens[i], pos + i, before)
        self._end = max(self._end, pos + n)
        self.hidden = hidden[n - 1].copy()

    def skip(self, hidden: FloatArray, pos: int) -> None:
        """Pass over an image, whose last row has the (n_embd,) state `hidden`; `pos` is that of what follows."""
        self.hidden, self._end = hidden.copy(), pos

    def begin(self, token: int, pos: int, room: int) -> Part | None:
        """Return the rows after which the head predicts what follows `token`, which is at `pos` and not evaluated yet.

        Earlier rows that wait are evaluated here, so that at most `room` are left; None if there is no hidden state.
        """
        if self.hidden is None:
            return None
        if pos >= self._end:
            self._wait(token, pos, self.hidden)
        n, self._waiting = self._waiting, 0
        breaks = np.flatnonzero(np.diff(self._positions[:n]) != 1) + 1
        last = max(int(breaks[-1]) if len(breaks) else 0, n - room)
        edges = sorted({0, last, *(edge for edge in breaks.tolist() if edge < last)})
        edges = sorted({*edges, *range(0, last, self.head.n_batch)})
        for start, stop in itertools.pairwise(edges):
            self.head.evaluate_parts([self._part(start, stop, 0)])
        return self._part(last, n, 1)

    def end(self, pos: int, depth: int) -> None:
        """Note that a draft of `depth` tokens is over, whose first row was at `pos`."""
        # The rows of drafts rest on the head's own states; those of accepted ones are made again from the main model's.
        if depth > 1:
            self.head.remove(pos + 1, seq=self.seq)
        self._end = pos + 1

    def _part(self, start: int, stop: int, outputs: int) -> Part:
        tokens = self._tokens[start:stop].tolist()
        return Part(tokens, int(self._positions[start]), self.seq, outputs, self._rows[start:stop].copy())

    def _wait(self, token: int, pos: int, hidden: FloatArray) -> None:
        if self._waiting == WAITING_ROWS:
            kept = WAITING_ROWS // 2
            for waiting in (self._tokens, self._positions, self._rows):
                waiting[:kept] = waiting[WAITING_ROWS - kept :]
            self._waiting = kept
        i = self._waiting
        self._tokens[i], self._positions[i], self._rows[i] = token, pos, hidden
        self._waiting = i + 1


def head_context(model: Model, main: Context) -> Context:
    """Make the context of the MTP head of a model for the sequences of a main context, which must outlive it.

    The head may be in a file of its own: its graph has an embedding and an output of its own then.

    Raises:
        ModelError: llama.cpp refuses, or the model was loaded without the head.

    """
    return Context(model, replace(main.spec, n_rs_seq=0, n_outputs=1), mtp_of=main)


Choose = Callable[[FloatArray, int], int]


def best(logits: FloatArray, ahead: int) -> int:
    """Choose the most probable token of a row of logits, (n_vocab,); it does not matter what is drafted before it."""
    del ahead
    return int(logits.argmax())


def draft(
    drafters: Sequence[Drafter],
    tokens: Sequence[int],
    positions: Sequence[int],
    depth: int,
    choose: Sequence[Choose] | None = None,
) -> list[list[int]]:
    """Predict the `depth` tokens after one token of each of several sequences, in calls that they share.

    Args:
        drafters: of the sequences.
        tokens: not yet evaluated by the main model.
        positions: of these tokens.
        depth: of all drafts.
        choose: for each sequence, takes logits and the number of drafts before it; None: `best`.

    Returns:
        The drafts of each; none for a sequence without a hidden state.

    """
    found: list[list[int]] = [[] for _ in drafters]
    room = max(1, drafters[0].head.n_batch // len(drafters))
    parts = [one.begin(token, pos, room) for one, token, pos in zip(drafters, tokens, positions, strict=True)]
    active = [i for i, part in enumerate(parts) if part is not None]
    rows = [part for part in parts if part is not None]
    head = drafters[0].head
    while active:
        head.evaluate_parts(rows)
        ends = np.cumsum([len(part.tokens) for part in rows]) - 1
        for i, end in zip(active, ends.tolist(), strict=True):
            found[i].append((best if choose is None else choose[i])(head.logits(end), len(found[i])))
        if len(found[active[0]]) == depth:
            break
        rows = [
            Part(found[i][-1:], positions[i] + len(found[i]), drafters[i].seq, 1, head.head_hidden(end).copy()[None])
            for i, end in zip(active, ends.tolist(), strict=True)
        ]
    for i in active:
        drafters[i].end(positions[i], depth)
    return found
