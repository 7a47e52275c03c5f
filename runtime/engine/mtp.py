"""Draft with the MTP head: it predicts the next tokens, and the main model verifies them all in one call.

Exact by construction: a drafted token is never returned. The sampler chooses from the main model's own row each time,
as it would without drafts; a draft only decides whether the next row is already computed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qwen35_gguf.runtime.llama.batch import FloatArray
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model

WINDOW = 1024  # rows that wait for the MTP head at most; it never sees older ones


@dataclass
class Drafts:
    """The tokens that were drafted, and those of them that were accepted."""

    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class StepTiming:
    """What a step with drafts cost."""

    drafts: int
    verify_seconds: float
    draft_seconds: float


class Drafter(Closing):
    """The MTP head with a KV cache of its own, in sync with the main model.

    The head's row at position p takes the token there and the main model's hidden state of p - 1. Rows wait in a
    buffer until drafts are wanted, so that a prompt, and steps without drafts, cost nothing but a copy. Of a long
    prompt the head sees the last rows only: its drafts can get worse by that, the output cannot.
    """

    def __init__(self, model: Model, main: Context) -> None:
        """Make the head's context.

        Args:
            model: loaded with the MTP head.
            main: the main model's context, which gives hidden states and must outlive this object.

        Raises:
            ModelError: llama.cpp refuses.

        """
        self._context = Context(model, replace(main.spec, n_rs_seq=0, n_outputs=1), mtp_of=main)
        self._main = main
        self.hidden: FloatArray | None = None  # of the main model's last token
        self._end = 0  # position up to which rows were evaluated or wait
        self._tokens = np.zeros(WINDOW, np.int32)
        self._positions = np.zeros(WINDOW, np.int32)
        self._rows = np.zeros((WINDOW, model.n_embd), np.float32)
        self._waiting = 0

    def close(self) -> None:
        """Free the context."""
        self._context.close()

    def clear(self) -> None:
        """Empty the context and the buffer."""
        self._context.clear()
        self.hidden, self._end, self._waiting = None, 0, 0

    def rewind(self, pos: int, hidden: FloatArray | None) -> None:
        """Remove what is at `pos` and after; `hidden` is the main model's hidden state before it."""
        self._waiting = int(np.searchsorted(self._positions[: self._waiting], pos))
        self._context.remove(pos)
        self.hidden, self._end = hidden, min(self._end, pos)

    def sync(self, tokens: Sequence[int], pos: int) -> None:
        """Take the first tokens of the main model's last call, at positions from `pos`, with their hidden states."""
        n = len(tokens)
        hidden = self._main.hidden(n)
        for i in range(max(0, self._end - pos), n):
            before = hidden[i - 1] if i else self.hidden
            if before is not None:
                self._wait(tokens[i], pos + i, before)
        self._end = max(self._end, pos + n)
        self.hidden = hidden[-1].copy()

    def skip(self, rows: int, pos: int) -> None:
        """Pass over an image, of which the main model's last call evaluated `rows`; `pos` is that of what follows."""
        self.hidden, self._end = self._main.hidden(rows)[-1].copy(), pos

    def draft(self, token: int, pos: int, depth: int) -> list[int]:
        """Predict the `depth` tokens after `token`, which is at `pos` and not yet evaluated by the main model."""
        if self.hidden is None:
            return []
        if pos >= self._end:
            self._wait(token, pos, self.hidden)
        self._flush()
        drafts: list[int] = []
        while True:
            drafts.append(int(self._context.logits(-1).argmax()))
            if len(drafts) == depth:
                break
            own = self._context.head_hidden().copy()
            self._context.evaluate(drafts[-1:], pos + len(drafts), outputs=1, embd=own[None])
        # The rows of drafts rest on the head's own states; those of accepted ones are made again from the main model's.
        if depth > 1:
            self._context.remove(pos + 1)
        self._end = pos + 1
        return drafts

    def _wait(self, token: int, pos: int, hidden: FloatArray) -> None:
        if self._waiting == WINDOW:
            kept = WINDOW // 2
            for waiting in (self._tokens, self._positions, self._rows):
                waiting[:kept] = waiting[WINDOW - kept :]
            self._waiting = kept
        i = self._waiting
        self._tokens[i], self._positions[i], self._rows[i] = token, pos, hidden
        self._waiting = i + 1

    def _flush(self) -> None:
        """Evaluate the waiting rows in calls of consecutive positions, with logits for the last row."""
        n, self._waiting = self._waiting, 0
        breaks = np.flatnonzero(np.diff(self._positions[:n]) != 1) + 1
        edges = sorted({0, n, *breaks.tolist(), *range(0, n, self._context.n_batch)})
        for start, stop in itertools.pairwise(edges):
            self._context.evaluate(
                self._tokens[start:stop].tolist(),
                int(self._positions[start]),
                outputs=int(stop == n),
                embd=self._rows[start:stop],
            )


def measure_costs(main: Context, drafter: Drafter, max_depth: int) -> tuple[list[float], float]:
    """Time steps of 1 .. 1 + max_depth tokens and a draft, on an empty context, which is empty afterwards.

    1, 2 and 1 + max_depth tokens are timed, twice each, of which the better one counts; the others are interpolated.
    """
    sizes = sorted({1, 2, 1 + max_depth})
    best = dict.fromkeys(sizes, float("inf"))
    draft = float("inf")
    for _ in range(2):
        for size in sizes:
            main.clear()
            start = time.perf_counter()
            main.evaluate([0] * size, 0, outputs=size)
            main.logits(-1)
            best[size] = min(best[size], time.perf_counter() - start)
            drafter.clear()
            drafter.sync([0] * size, 0)
        start = time.perf_counter()
        drafter.draft(0, size, 1)
        draft = min(draft, time.perf_counter() - start)
    main.clear()
    drafter.clear()
    depths = np.arange(1 + max_depth) + 1
    return [float(x) for x in np.interp(depths, sizes, [best[size] for size in sizes])], draft
