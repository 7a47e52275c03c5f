"""Drafting with the MTP head: it guesses the next tokens, the model checks them all in one step.

Exact by construction: a drafted token is never given out. The sampler chooses from the model's own row each time, as
it would have without drafts; a draft only decides whether the next row is already there.

How many tokens to draft depends on the machine (what a step of 1 + k tokens costs) and on the text (how often drafts
are right). `best_depth` is that decision, `DepthTuner` measures what it needs.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model

FloatArray = npt.NDArray[np.float32]

MAX_DEPTH = 4
# Acceptance before anything was seen, and how many observations that is worth.
PRIOR, PRIOR_WEIGHT = 0.6, 2.0
MEMORY = 20.0  # observations that an average looks back
COST_STEP = 0.1  # how fast the costs follow what is measured
OUTLIER = 2.0  # a step that takes more than so many times as long was interrupted
PROBING = 0.01  # of the time may go into trying other depths than the best
PROBE_EVERY = 8  # steps at least between two of them
WINDOW = 1024  # rows that wait for the head at most; older ones it never sees


def expected_tokens(acceptance: Sequence[float], depth: int) -> float:
    """How many tokens a step with `depth` drafts gives on average.

    `acceptance[i]` is the probability that draft i is right when those before it were.
    """
    total = part = 1.0
    for probability in acceptance[:depth]:
        part *= probability
        total += part
    return total


def step_seconds(verify: Sequence[float], draft: float, depth: int) -> float:
    """How long a step takes: `verify[k]` for 1 + k tokens of the model, and `draft` for each token of the head."""
    return verify[depth] + depth * draft


def speed_up(verify: Sequence[float], draft: float, acceptance: Sequence[float], depth: int) -> float:
    """How many times as fast as without drafts."""
    return expected_tokens(acceptance, depth) * verify[0] / step_seconds(verify, draft, depth)


def best_depth(verify: Sequence[float], draft: float, acceptance: Sequence[float]) -> int:
    """Choose the depth, 0 included, with the most tokens per second; of equal ones the smallest.

    Args:
        verify: seconds for 1, 2, ... tokens of the model at once; its length limits the depth.
        draft: seconds for one token of the head.
        acceptance: see `expected_tokens`.

    """
    depths = range(len(verify))
    return max(depths, key=lambda depth: (speed_up(verify, draft, acceptance, depth), -depth))


class DepthTuner:
    """Chooses the depth of each step from measured costs and tracked acceptance.

    Attributes:
        verify: see `best_depth`; empty until `measured`.
        draft: seconds for one token of the head.
        acceptance: of each place, an average that forgets.

    """

    def __init__(self, max_depth: int = MAX_DEPTH) -> None:
        """Know nothing yet."""
        self.max_depth = max_depth
        self.verify: list[float] = []
        self.draft = 0.0
        self.acceptance = [PRIOR] * max_depth
        self._weights = [PRIOR_WEIGHT] * max_depth
        self._seconds = 0.0  # spent in steps
        self._lost = 0.0  # of these, by trying
        self._since_probe = 0
        self._probes = 0

    @property
    def ready(self) -> bool:
        """Whether the costs were measured."""
        return bool(self.verify)

    def measured(self, verify: Sequence[float], draft: float) -> None:
        """Take the first measurement; a step of more tokens is held to cost no less."""
        self.verify = list(np.maximum.accumulate(np.asarray(verify, np.float64)))
        self.draft = draft

    def best(self) -> int:
        """Return the depth that is fastest by what is known."""
        return best_depth(self.verify, self.draft, self.acceptance)

    def next(self) -> int:
        """Return the depth of the next step: the best one, and now and then a neighbour, to see whether it is better.

        A probe is counted as if none of its drafts were right; it has to fit into 1 % of the time so far.
        """
        best = self.best()
        self._since_probe += 1
        if self._since_probe < PROBE_EVERY or self.max_depth == 0:
            return best
        neighbours = [depth for depth in (best + 1, best - 1) if 0 <= depth <= self.max_depth]
        other = neighbours[self._probes % len(neighbours)]
        rate = expected_tokens(self.acceptance, best) / step_seconds(self.verify, self.draft, best)
        loss = step_seconds(self.verify, self.draft, other) - 1.0 / rate
        if self._lost + max(0.0, loss) > PROBING * self._seconds:
            return best
        self._since_probe = 0
        self._probes += 1
        return other

    def record(self, depth: int, accepted: int, verify_seconds: float, draft_seconds: float) -> None:
        """Learn from a step with `depth` drafts of which the first `accepted` were right."""
        best = self.best()
        if depth != best:
            rate = expected_tokens(self.acceptance, best) / step_seconds(self.verify, self.draft, best)
            self._lost = max(0.0, self._lost + verify_seconds + draft_seconds - (1 + accepted) / rate)
        self._seconds += verify_seconds + draft_seconds
        self.verify[depth] = _follow(self.verify[depth], verify_seconds)
        if depth:
            self.draft = _follow(self.draft, draft_seconds / depth)
        for place in range(min(depth, accepted + 1)):
            self._weights[place] = min(self._weights[place] + 1.0, MEMORY)
            self.acceptance[place] += ((place < accepted) - self.acceptance[place]) / self._weights[place]


def _follow(known: float, seen: float) -> float:
    return known + COST_STEP * (min(seen, OUTLIER * known) - known)


class Drafter(Closing):
    """The MTP head with a KV cache of its own, kept in step with the trunk.

    The head's row at position p takes the token there and the trunk's hidden state of p - 1. Rows wait in a buffer
    until the head is asked, so that a prompt, and steps without drafts, cost nothing but a copy. Of a long prompt the
    head sees the last rows only: its drafts can get worse by that, the output cannot.
    """

    def __init__(self, model: Model, trunk: Context) -> None:
        """Make the head's context beside the trunk's, which has to give hidden states and to outlive it.

        Raises:
            ModelError: llama.cpp refuses.

        """
        self._context = Context(model, replace(trunk.spec, n_rs_seq=0, n_outputs=1), mtp_of=trunk)
        self._trunk = trunk
        self.hidden: FloatArray | None = None  # of the trunk's last token
        self._end = 0  # position up to which rows were evaluated or wait
        self._tokens = np.zeros(WINDOW, np.int32)
        self._positions = np.zeros(WINDOW, np.int32)
        self._rows = np.zeros((WINDOW, model.n_embd), np.float32)
        self._waiting = 0

    def close(self) -> None:
        """Free the context."""
        self._context.close()

    def clear(self) -> None:
        """Forget all."""
        self._context.clear()
        self.hidden, self._end, self._waiting = None, 0, 0

    def rewind(self, pos: int, hidden: FloatArray | None) -> None:
        """Forget what stands at `pos` and after; `hidden` is the trunk's hidden state before it."""
        self._waiting = int(np.searchsorted(self._positions[: self._waiting], pos))
        self._context.remove(pos)
        self.hidden, self._end = hidden, min(self._end, pos)

    def follow(self, tokens: Sequence[int], pos: int) -> None:
        """Take tokens that the trunk's last call evaluated first, at positions from `pos`, with their hidden states."""
        n = len(tokens)
        hidden = self._trunk.hidden(n)
        for i in range(max(0, self._end - pos), n):
            before = hidden[i - 1] if i else self.hidden
            if before is not None:
                self._wait(tokens[i], pos + i, before)
        self._end = max(self._end, pos + n)
        self.hidden = hidden[-1].copy()

    def skip(self, rows: int, pos: int) -> None:
        """Pass over a picture, of which the trunk's last call evaluated `rows`; `pos` is what follows."""
        self.hidden, self._end = self._trunk.hidden(rows)[-1].copy(), pos

    def draft(self, token: int, pos: int, depth: int) -> list[int]:
        """Guess the `depth` tokens after `token`, which is at `pos` and not yet evaluated by the trunk."""
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
        # The rows of drafts rest on the head's own states; those of accepted ones are made again from the trunk's.
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
        """Evaluate the waiting rows, with logits for the last: in calls of consecutive positions."""
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


def measure_costs(trunk: Context, drafter: Drafter, max_depth: int) -> tuple[list[float], float]:
    """Time steps of 1 .. 1 + max_depth tokens and a draft, on an empty context, which is empty afterwards.

    1, 2 and 1 + max_depth are timed, twice each and the better one taken; what lies between is interpolated.
    """
    sizes = sorted({1, 2, 1 + max_depth})
    best = dict.fromkeys(sizes, float("inf"))
    draft = float("inf")
    for _ in range(2):
        for size in sizes:
            trunk.clear()
            start = time.perf_counter()
            trunk.evaluate([0] * size, 0, outputs=size)
            trunk.logits(-1)
            best[size] = min(best[size], time.perf_counter() - start)
            drafter.clear()
            drafter.follow([0] * size, 0)
        start = time.perf_counter()
        drafter.draft(0, size, 1)
        draft = min(draft, time.perf_counter() - start)
    trunk.clear()
    drafter.clear()
    depths = np.arange(1 + max_depth) + 1
    return [float(x) for x in np.interp(depths, sizes, [best[size] for size in sizes])], draft
