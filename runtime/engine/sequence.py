"""Token ids in, token ids out: the live sequence of a context, what of it is reused, and drafting.

It does not depend on text, messages or images: an image is a `MediaChunk`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from qwen35_gguf.errors import ContextError, ModelError, OutputError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.draft_depth import Depth, DepthTuner, depth_limit
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk, Prompt, n_cells
from qwen35_gguf.runtime.engine.mtp import Drafter, measure_costs
from qwen35_gguf.runtime.engine.prefix_cache import (
    FloatArray,
    Item,
    PrefixCache,
    RecurrentState,
    SequenceState,
    boundaries,
    common_prefix,
)
from qwen35_gguf.runtime.engine.sampling import Sampler
from qwen35_gguf.runtime.engine.state_store import StateStore
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model

log = logging.getLogger(__name__)

CACHED_STATES = 8  # recurrent states that the cache holds by default
NEWEST = 3  # boundaries at the end of a prompt after which a state is kept, beside the first
SAVED_EVERY = 1024  # new tokens that make it worth writing a state to disk
WORTH_KEEPING = 512  # tokens of a sequence that is about to be dropped

Progress = Callable[[int, int], None]


@dataclass
class Drafts:
    """The tokens that were drafted, and those of them that were accepted."""

    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class _StepTiming:
    drafts: int
    verify_seconds: float
    draft_seconds: float


class Engine(Closing):
    """One sequence in one context.

    Attributes:
        model: what it was made for.
        main: the context of the main model.
        drafter: the MTP head; None without drafts.
        tuner: chooses the draft depth; None unless it is "auto".
        cache: of states in memory.
        drafts: counts of the last generation.

    """

    def __init__(
        self,
        model: Model,
        spec: ContextSpec,
        *,
        draft: Depth = 0,
        message_start: int | None = None,
        cache_bytes: int | None = None,
        store: StateStore | None = None,
    ) -> None:
        """Make the contexts.

        Args:
            model: must outlive it; loaded with the MTP head if anything is drafted.
            spec: of the context; what drafts need is added.
            draft: tokens drafted in each step, 0 to 4, or "auto".
            message_start: the token that begins a message: states are copied before it.
            cache_bytes: of states in memory; None: of eight recurrent states.
            store: where states are kept between runs.

        Raises:
            ModelError: there is not enough memory, or llama.cpp refuses.

        """
        self.model = model
        self._message_start = message_start
        self._store = store
        self._depth: Depth = draft
        self._fit_cache = cache_bytes is None  # as soon as the size of a state is known
        depth = depth_limit(draft)
        self.drafter: Drafter | None = None
        self.main = Context(model, replace(spec, n_rs_seq=depth, n_outputs=1 + depth), hidden=depth > 0)
        try:
            if depth:
                self.drafter = Drafter(model, self.main)
            self.tuner = DepthTuner(depth) if draft == "auto" else None
            self.cache = PrefixCache(cache_bytes or 0)
        except BaseException:
            self.close()
            raise
        self._items: list[Item] = []
        self._pos = self._cells = 0
        self._in_step = False  # llama.cpp's memory may differ from what is recorded here
        self._forced: list[int] = []
        self._unverified: list[int] = []  # drafts that the main model evaluated and that are not sampled yet
        self._step: list[int] = []  # tokens of the last call that are part of the sequence
        self._timing: _StepTiming | None = None  # of the last call
        self.drafts = Drafts()

    def close(self) -> None:
        """Free the contexts."""
        if self.drafter is not None:
            self.drafter.close()
        self.main.close()

    @property
    def room(self) -> int:
        """The cells that are free."""
        return self.main.n_ctx - self._cells

    def clear(self) -> None:
        """Empty the context; recurrent states of what it held are useless then without a sequence state."""
        # Recorded first: an interrupt may come in between, and what is recorded must be in the context.
        self._items, self._pos, self._cells = [], 0, 0
        self._unverified, self._step = [], []
        self.main.clear()
        if self.drafter is not None:
            self.drafter.clear()
        self._in_step = False

    # ---- prompts -------------------------------------------------------------------------------------------------

    def prefill(self, prompt: Prompt, progress: Progress | None = None) -> int:
        """Evaluate a prompt, or what of it is new, so that the next token can be sampled.

        Args:
            prompt: token ids and media chunks; the last item is a token.
            progress: is called after each call with the cells that are done and those of the whole prompt.

        Returns:
            The cells that were reused.

        Raises:
            ContextError: it does not fit into the context.
            ModelError: llama.cpp fails.

        """
        if not prompt or isinstance(prompt[-1], MediaChunk):
            raise ContextError("prompt: is empty or does not end with text; add some")
        total = n_cells(prompt)
        if total > self.main.n_ctx:
            raise ContextError(
                f"prompt: {total:,} tokens do not fit into a context of {self.main.n_ctx:,}; raise n_ctx"
            )
        self._unverified, self._step, self._timing = [], [], None
        self._measure()
        items: list[Item] = [item.key if isinstance(item, MediaChunk) else item for item in prompt]
        start = self._reuse(items, interrupted=self._in_step)
        reused = self._cells
        stops = [stop for stop in boundaries(items, self._message_start) if stop > start]
        first = stops[:1] if not start else []
        kept = {*first, *stops[-NEWEST:]}
        for stop in [*stops, len(items)]:
            self._evaluate(prompt[len(self._items) : stop], last=stop == len(items), total=total, progress=progress)
            if stop in kept:
                self._keep_recurrent_state()
            if stop != len(items):
                self._save()
        self._in_step = False
        return reused

    def _evaluate(self, part: Prompt, *, last: bool, total: int, progress: Progress | None) -> None:
        at = 0
        while at < len(part):
            item = part[at]
            if isinstance(item, MediaChunk):
                item.evaluate(self.main, self._pos)
                self._items.append(item.key)
                self._pos, self._cells = self._pos + item.n_pos, self._cells + item.n_cells
                if self.drafter is not None:
                    self.drafter.skip((item.n_cells - 1) % self.main.n_batch + 1, self._pos)
                at += 1
            else:
                tokens: list[int] = []
                for following in part[at : at + self.main.n_batch]:
                    if isinstance(following, MediaChunk):
                        break
                    tokens.append(following)
                at += len(tokens)
                self.main.evaluate(tokens, self._pos, outputs=int(last and at == len(part)))
                if self.drafter is not None:
                    self.drafter.sync(tokens, self._pos)
                self._items += tokens
                self._pos, self._cells = self._pos + len(tokens), self._cells + len(tokens)
            if progress is not None:
                progress(self._cells, total)

    def _measure(self) -> None:
        """Measure the cost of a step, once, on the context that is still empty."""
        if self.tuner is not None and not self.tuner.ready and self.drafter is not None and not self._items:
            self.tuner.measured(*measure_costs(self.main, self.drafter, self.tuner.max_depth))

    # ---- reuse of states -----------------------------------------------------------------------------------------

    def _reuse(self, items: Sequence[Item], *, interrupted: bool) -> int:
        """Bring the context to the longest known prefix of `items`; return the length of it.

        After an interrupt the keys and values of the recorded items are there, but the recurrent states may be of any
        position: a copy still serves, the states as they are do not.
        """
        found: list[tuple[int, RecurrentState | None, SequenceState | None]] = [
            (*self._usable(self._items, items, as_it_is=not interrupted), None)
        ]
        for known in [*self.cache.sequence_states(), *(self._store.states if self._store else [])]:
            found.append((*self._usable(known.items, items), known))
        length, recurrent, whole = max(found, key=lambda entry: entry[0])
        if not interrupted and len(self._items) - length >= WORTH_KEEPING and length < len(self._items) // 2:
            self._keep_sequence_state()
        self._in_step = True
        if whole is not None and not self._load(whole):
            return self._reuse(items, interrupted=True)  # that state is dropped now
        if not length or (recurrent is not None and not self._restore(recurrent)):
            self.clear()
            self._in_step = True
        self.cache.use_prefixes(items)
        return len(self._items)

    def _usable(
        self, held: Sequence[Item], wanted: Sequence[Item], *, as_it_is: bool = True
    ) -> tuple[int, RecurrentState | None]:
        """Return how many items of `wanted` a context that holds `held` gives, and the state to restore for it.

        At least one item must be evaluated, for its logits.
        """
        common = common_prefix(held, wanted)
        if as_it_is and common == len(held) < len(wanted):
            return common, None
        state = self.cache.recurrent_state(wanted, min(common, len(wanted) - 1))
        return (len(state.items), state) if state else (0, None)

    def _restore(self, state: RecurrentState) -> bool:
        del self._items[len(state.items) :]
        self._pos, self._cells = state.n_pos, state.n_cells
        if not self.main.restore(state.state, partial=True) or not self.main.remove(state.n_pos):
            return False
        if self.drafter is not None:
            self.drafter.rewind(self._pos, state.hidden)
        return True

    def _load(self, state: SequenceState) -> bool:
        """Replace what the context holds by a state; False if that fails, and then the state is dropped."""
        whole = state
        if state.path is not None and self._store is not None:
            whole = self._store.read(state) or state
        self.clear()
        self._in_step = True
        if not whole.state.nbytes or not self.main.restore(whole.state, partial=False):
            if state.path is not None and self._store is not None:
                self._store.states.remove(state)
            else:
                self.cache.remove(state)
            return False
        self._items, self._pos, self._cells = list(whole.items), whole.n_pos, whole.n_cells
        if self.drafter is not None:
            self.drafter.rewind(self._pos, whole.hidden)
        return True

    def _keep_recurrent_state(self) -> None:
        state = self.main.state(partial=True)
        if self._fit_cache:
            self.cache.max_bytes = CACHED_STATES * (state.nbytes + 8 * self.main.n_ctx)
        self.cache.add(RecurrentState(list(self._items), self._pos, self._cells, state, self._hidden()))

    def _keep_sequence_state(self) -> None:
        """Keep the whole sequence, if it leaves room for recurrent states."""
        if self.main.state_size(partial=False) <= self.cache.max_bytes // 2:
            self.cache.add(self._sequence_state())

    def _save(self) -> None:
        """Write the sequence to disk if much of it is not there yet."""
        if self._store is None or len(self._items) - self._store.covers(self._items) < SAVED_EVERY:
            return
        try:
            self._store.save(self._sequence_state())
        except OutputError as error:
            log.warning("%s; states are no longer saved", error)
            self._store = None

    def _sequence_state(self) -> SequenceState:
        return SequenceState(list(self._items), self._pos, self._cells, self.main.state(partial=False), self._hidden())

    def _hidden(self) -> FloatArray | None:
        drafter = self.drafter
        return None if drafter is None or drafter.hidden is None else drafter.hidden.copy()

    # ---- generation ----------------------------------------------------------------------------------------------

    def force(self, tokens: Sequence[int]) -> None:
        """Let `tokens` follow the one that `generate` gave last, in place of sampled ones."""
        self._forced += tokens

    def generate(self, sampler: Sampler, *, limit: int, depth: Depth | None = None) -> Generator[int, None, None]:
        """Sample tokens after `prefill`, until the caller stops or the context is full.

        With drafts each step evaluates the last token and the drafts after it; as long as the sampled token is the
        draft, its row is already computed. What is sampled is the same as without.

        Args:
            sampler: chooses; it counts every token.
            limit: tokens that the caller takes at most.
            depth: tokens drafted in each step; by default that of the engine.

        Raises:
            ModelError: llama.cpp fails.

        """
        self.drafts, self._forced = Drafts(), []
        depth = self._depth if depth is None else depth
        row = -1
        try:
            for number in range(1, limit + 1):
                token = sampler.sample(self.main, row)
                yield token
                forced, self._forced = self._forced, []
                if self._unverified and token == self._unverified[0] and not forced:
                    self._accept()
                    row += 1
                    continue
                if number == limit or self.room < 1 + len(forced):
                    return
                row = self._advance(token, forced, min(limit - number - 1, self.room - 1), depth)
                for known in forced:
                    sampler.accept(known)
        finally:
            if not self._in_step:
                self._timing = None  # the caller stopped, which tells nothing about the drafts
                self._finish_step()

    def _accept(self) -> None:
        token = self._unverified.pop(0)
        self._items.append(token)
        self._step.append(token)
        self._pos, self._cells = self._pos + 1, self._cells + 1
        self.drafts.accepted += 1

    def _advance(self, token: int, forced: list[int], most: int, depth: Depth) -> int:
        """Evaluate a token and what is forced or drafted after it; return the row to sample from next."""
        self._finish_step()
        drafts: list[int] = []
        start = time.perf_counter()
        if self.drafter is not None and not forced:
            wanted = self.tuner.next() if depth == "auto" and self.tuner is not None else int(depth)
            if min(wanted, most) > 0:
                drafts = self.drafter.draft(token, self._pos, min(wanted, most))
        drafted = time.perf_counter()
        self._in_step = True
        known = [token, *forced]
        for at in range(0, len(known), self.main.n_batch):
            part = known[at : at + self.main.n_batch]
            final = at + len(part) == len(known)
            self.main.evaluate([*part, *drafts] if final else part, self._pos, outputs=1 + len(drafts) if final else 0)
            if self.drafter is not None and not final:
                self.drafter.sync(part, self._pos)
            self._items += part
            self._pos, self._cells = self._pos + len(part), self._cells + len(part)
        self._step, self._unverified = part, drafts
        self._in_step = False
        self.drafts.drafted += len(drafts)
        if depth == "auto" and not forced:
            self.main.logits(-1)  # waits for the device
            self._timing = _StepTiming(len(drafts), time.perf_counter() - drafted, drafted - start)
        else:
            self._timing = None
        return len(part) - 1

    def _finish_step(self) -> None:
        """Roll back drafts that were not accepted, sync the MTP head with the rest, and record the step's costs."""
        if not self._step:
            return
        if self._unverified and not self.main.remove(self._pos):
            self._in_step = True
            raise ModelError("llama.cpp cannot roll drafts back")
        if self.drafter is not None:
            self.drafter.sync(self._step, self._pos - len(self._step))
        if self._timing is not None and self.tuner is not None:
            timing = self._timing
            self.tuner.record(timing.drafts, len(self._step) - 1, timing.verify_seconds, timing.draft_seconds)
        self._step, self._unverified, self._timing = [], [], None
