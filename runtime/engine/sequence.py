"""Token ids in, token ids out: the live sequence of a context, what of it is reused, and drafting.

It does not depend on text, messages or images: an image is a `MediaChunk`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from qwen35_gguf.errors import ContextError, ModelError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.draft_depth import Depth, DepthTuner, depth_limit
from qwen35_gguf.runtime.engine.live_sequence import CACHED_STATES, LiveSequence
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk, Prompt, n_cells
from qwen35_gguf.runtime.engine.mtp import Drafter, Drafts, StepTiming, measure_costs
from qwen35_gguf.runtime.engine.prefix_cache import EVERY, Item, PrefixCache, SequenceState, boundaries
from qwen35_gguf.runtime.engine.reuse import CacheInfo, useful_stops
from qwen35_gguf.runtime.engine.sampling import Sampler
from qwen35_gguf.runtime.engine.state_store import StateStore
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Suspended:
    """A generation that another one interrupted.

    Attributes:
        sequence: what the context held.
        forced: tokens that follow next.
        drafts: counts so far.

    """

    sequence: SequenceState
    forced: list[int]
    drafts: Drafts


class Engine(Closing):
    """One sequence in one context.

    Attributes:
        model: what it was made for.
        main: the context of the main model.
        drafter: the MTP head; None without drafts.
        tuner: chooses the draft depth; None unless it is "auto".
        live: what the main context holds.
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
        cached_states: int = CACHED_STATES,
        store: StateStore | None = None,
    ) -> None:
        """Make the contexts.

        Args:
            model: must outlive it; loaded with the MTP head if anything is drafted.
            spec: of the context; what drafts need is added.
            draft: tokens drafted in each step, 0 to 4, or "auto".
            message_start: the token that begins a message: states are copied before it.
            cache_bytes: of states in memory; None: of `cached_states` recurrent states.
            cached_states: see there.
            store: where states are kept between runs.

        Raises:
            ModelError: there is not enough memory, or llama.cpp refuses.

        """
        self.model = model
        self._message_start = message_start
        self._depth: Depth = draft
        depth = depth_limit(draft)
        # A step is one call, of which llama.cpp splits off less than it can roll back, or ends the process.
        spec = replace(spec, n_batch=max(spec.n_batch, 2 + depth if depth else 1))
        self.drafter: Drafter | None = None
        self.main = Context(model, replace(spec, n_rs_seq=depth, n_outputs=1 + depth), hidden=depth > 0)
        try:
            if depth:
                self.drafter = Drafter(model, self.main)
            self.tuner = DepthTuner(depth) if draft == "auto" else None
        except BaseException:
            self.close()
            raise
        self.live = LiveSequence(
            self.main, self.drafter, cache_bytes=cache_bytes, cached_states=cached_states, store=store
        )
        self._forced: list[int] = []
        self._unverified: list[int] = []  # drafts that the main model evaluated and that are not sampled yet
        self._step: list[int] = []  # tokens of the last call that are part of the sequence
        self._timing: StepTiming | None = None  # of the last call
        self.drafts = Drafts()

    def close(self) -> None:
        """Free the contexts."""
        if self.drafter is not None:
            self.drafter.close()
        self.main.close()

    @property
    def cache(self) -> PrefixCache:
        """States in memory."""
        return self.live.cache

    def info(self) -> CacheInfo:
        """Return what the prefix cache holds, and what became of the last prompt."""
        return self.live.info()

    @property
    def room(self) -> int:
        """The cells that are free."""
        return self.main.n_ctx - self.live.cells

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
        total = self.check_prompt(prompt)
        self._settle()
        self._measure()
        items: list[Item] = [item.key if isinstance(item, MediaChunk) else item for item in prompt]
        source = self.live.reuse(items, interrupted=self.live.in_step)
        reused, start = self.live.cells, len(self.live.items)
        stops = boundaries(items, self._message_start, max(EVERY, self.main.n_batch))
        messages = [stop for stop in stops if items[stop] == self._message_start]
        self.live.n_prompt = (messages or stops or [len(items)])[-1]
        stops = [stop for stop in stops if stop > start]
        kept = useful_stops(stops, items, self._message_start, start=start, shared=source.shared)
        for stop in [*stops, len(items)]:
            self._evaluate(prompt[len(self.live.items) : stop], last=stop == len(items), total=total, progress=progress)
            if stop in kept:
                self.live.keep_recurrent_state()
            if stop in messages or (stop in kept and not messages):
                self.live.save()
        self.live.in_step = False
        return reused

    def check_prompt(self, prompt: Prompt) -> int:
        """Count the cells of a prompt that can be evaluated.

        Raises:
            ContextError: it does not fit into the context, or does not end with a token.

        """
        if not prompt or isinstance(prompt[-1], MediaChunk):
            raise ContextError("prompt: is empty or does not end with text; add some")
        total = n_cells(prompt)
        if total > self.main.n_ctx:
            raise ContextError(
                f"prompt: {total:,} tokens do not fit into a context of {self.main.n_ctx:,}; raise n_ctx"
            )
        return total

    def _evaluate(self, part: Prompt, *, last: bool, total: int, progress: Progress | None) -> None:
        at = 0
        while at < len(part):
            item = part[at]
            if isinstance(item, MediaChunk):
                item.evaluate(self.main, self.live.pos)
                self.live.append([item.key], item.n_pos, item.n_cells)
                if self.drafter is not None:
                    self.drafter.skip((item.n_cells - 1) % self.main.n_batch + 1, self.live.pos)
                at += 1
            else:
                tokens: list[int] = []
                for following in part[at : at + self.main.n_batch]:
                    if isinstance(following, MediaChunk):
                        break
                    tokens.append(following)
                at += len(tokens)
                self.main.evaluate(tokens, self.live.pos, outputs=int(last and at == len(part)))
                if self.drafter is not None:
                    self.drafter.sync(tokens, self.live.pos)
                self.live.append(tokens, len(tokens), len(tokens))
            if progress is not None:
                progress(self.live.cells, total)

    def _measure(self) -> None:
        """Measure the cost of a step, once, on the context that is still empty."""
        if self.tuner is not None and not self.tuner.ready and self.drafter is not None and not self.live.items:
            self.tuner.measured(*measure_costs(self.main, self.drafter, self.tuner.max_depth))

    # ---- taking turns --------------------------------------------------------------------------------------------

    def suspend(self) -> Suspended:
        """Copy what the generation needs to continue after another one.

        Raises:
            ModelError: llama.cpp fails, or failed in the middle of a step.

        """
        self._settle()
        if self.live.in_step:
            raise ModelError("generation: was interrupted and cannot continue; ask again")
        return Suspended(self.live.state(), self._forced, self.drafts)

    def resume(self, suspended: Suspended) -> None:
        """Continue a generation that was suspended; what the context holds is kept if it is worth it.

        Raises:
            ModelError: llama.cpp does not take the state back.

        """
        self._settle()
        self.live.resume(suspended.sequence)
        self._forced, self.drafts = suspended.forced, suspended.drafts

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
        row, number = -1, 0
        while number < limit:
            token = sampler.sample(self.main, row)
            yield token
            forced, self._forced = self._forced, []
            sampler.accept(*forced)
            following = sampler.forced()[: limit - number - 1]  # what the mask leaves no choice about
            yield from following
            number += 1 + len(following)
            known = [token, *forced, *following]
            while known and known[:1] == self._unverified[:1]:
                self._accept()
                row, known = row + 1, known[1:]
            if known:
                if number == limit or self.room < len(known):
                    return
                row = self._advance(known[0], known[1:], min(limit - number - 1, self.room - 1), depth)

    def _accept(self) -> None:
        token = self._unverified.pop(0)
        self.live.append([token], 1, 1)
        self._step.append(token)
        self.drafts.accepted += 1

    def _advance(self, token: int, forced: list[int], most: int, depth: Depth) -> int:
        """Evaluate a token and what is forced or drafted after it; return the row to sample from next."""
        self._finish_step()
        drafts: list[int] = []
        start = time.perf_counter()
        if self.drafter is not None and not forced:
            wanted = self.tuner.next() if depth == "auto" and self.tuner is not None else int(depth)
            if min(wanted, most) > 0:
                drafts = self.drafter.draft(token, self.live.pos, min(wanted, most))
        drafted = time.perf_counter()
        self.live.in_step = True
        known = [token, *forced]
        for at in range(0, len(known), self.main.n_batch):
            part = known[at : at + self.main.n_batch]
            final = at + len(part) == len(known)
            rows, outputs = ([*part, *drafts], 1 + len(drafts)) if final else (part, 0)
            self.main.evaluate(rows, self.live.pos, outputs=outputs)
            if self.drafter is not None and not final:
                self.drafter.sync(part, self.live.pos)
            self.live.append(part, len(part), len(part))
        self._step, self._unverified = part, drafts
        self.live.in_step = False
        self.drafts.drafted += len(drafts)
        self._timing = None
        if depth == "auto" and not forced:
            self.main.logits(-1)  # waits for the device
            self._timing = StepTiming(len(drafts), time.perf_counter() - drafted, drafted - start)
        return len(part) - 1

    def _settle(self) -> None:
        """Finish the last step of a generation that its caller left, possibly long ago."""
        self._timing = None  # it tells nothing about the drafts
        if not self.live.in_step:
            with contextlib.suppress(ModelError):
                self._finish_step()
        self._step, self._unverified = [], []

    def _finish_step(self) -> None:
        """Roll back drafts that were not accepted, sync the MTP head with the rest, and record the step's costs."""
        if not self._step:
            return
        if self._unverified and not self.main.remove(self.live.pos):
            self.live.in_step = True
            raise ModelError("llama.cpp cannot roll drafts back")
        if self.drafter is not None:
            self.drafter.sync(self._step, self.live.pos - len(self._step))
        if self._timing is not None and self.tuner is not None:
            timing = self._timing
            self.tuner.record(timing.drafts, len(self._step) - 1, timing.verify_seconds, timing.draft_seconds)
        self._step, self._unverified, self._timing = [], [], None
