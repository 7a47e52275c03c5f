"""Token ids in, token ids out: the live sequence of a context, what of it can be used again, and drafting.

It knows nothing of text, messages or pictures: an image is a `MediaChunk`, something that takes cells and positions and
can evaluate itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwen35_gguf.errors import ContextError, ModelError, OutputError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.mtp import MAX_DEPTH, DepthTuner, Drafter, measure_costs
from qwen35_gguf.runtime.engine.prefix_cache import Checkpoint, Item, PrefixCache, Snapshot, StateFolder, common_prefix
from qwen35_gguf.runtime.engine.sampling import Sampler
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model

log = logging.getLogger(__name__)

Depth = int | Literal["auto"]

CHECKPOINTS = 8  # of recurrent states that the cache holds if not told otherwise
NEWEST = 3  # boundaries at the end of a prompt that get a checkpoint, beside the first
EVERY = 4096  # tokens without a boundary after which there is one
SAVED_EVERY = 1024  # new tokens that make it worth writing a snapshot to disk
WORTH_KEEPING = 512  # tokens of a sequence that is about to be given up


@dataclass(frozen=True, eq=False)
class MediaChunk:
    """Something other than text in a prompt, which is one item of a sequence.

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
    """How many cells of the context a prompt takes."""
    return sum(item.n_cells if isinstance(item, MediaChunk) else 1 for item in prompt)


@dataclass
class Drafts:
    """How many tokens were drafted, and how many of these were right."""

    drafted: int = 0
    accepted: int = 0


class Engine(Closing):
    """One sequence in one context.

    Attributes:
        trunk: the context.
        drafter: the MTP head; None without drafting.
        tuner: chooses the draft depth; None unless it is "auto".
        cache: of checkpoints and snapshots.
        drafts: counts of the last generation.

    """

    def __init__(
        self,
        model: Model,
        spec: ContextSpec,
        *,
        draft: Depth = 0,
        boundary: int | None = None,
        cache_bytes: int | None = None,
        folder: StateFolder | None = None,
    ) -> None:
        """Make the contexts.

        Args:
            model: has to outlive it; loaded with the MTP head if anything is to be drafted.
            spec: of the context; what drafting needs is added.
            draft: tokens drafted each step, 0 to 4, or "auto".
            boundary: the token that begins a message: checkpoints are taken before it.
            cache_bytes: of checkpoints and snapshots in memory; None holds eight checkpoints.
            folder: where snapshots are kept between runs.

        Raises:
            ModelError: there is not enough memory, or llama.cpp refuses.

        """
        self._model = model
        self._boundary = boundary
        self._folder = folder
        self._depth: Depth = draft
        self._fit_cache = cache_bytes is None  # as soon as it is known how large a state is
        depth = MAX_DEPTH if draft == "auto" else draft
        self.drafter: Drafter | None = None
        self.trunk = Context(model, replace(spec, n_rs_seq=depth, n_outputs=1 + depth), hidden=depth > 0)
        try:
            if depth:
                self.drafter = Drafter(model, self.trunk)
            self.tuner = DepthTuner(depth) if draft == "auto" else None
            self.cache = PrefixCache(cache_bytes or 0)
        except BaseException:
            self.close()
            raise
        self._on_disk = list(folder.listed()) if folder else []
        self._items: list[Item] = []
        self._pos = self._cells = 0
        self._in_step = False  # llama.cpp's memory may not be what is noted here
        self._forced: list[int] = []
        self._unsure: list[int] = []  # drafts that the trunk evaluated and nobody has sampled yet
        self._step: list[int] = []  # what the last call evaluated that is part of the sequence
        self._timing: tuple[int, float, float] | None = None  # of it: drafts, seconds of the trunk and of the head
        self.drafts = Drafts()

    def close(self) -> None:
        """Free the contexts."""
        if self.drafter is not None:
            self.drafter.close()
        self.trunk.close()

    @property
    def room(self) -> int:
        """How many cells are free."""
        return self.trunk.n_ctx - self._cells

    def clear(self) -> None:
        """Empty the context; checkpoints of what it held are of no use any more without a snapshot."""
        # Noted first: an interrupt may come in between, and what is noted has to be there.
        self._items, self._pos, self._cells = [], 0, 0
        self._unsure, self._step = [], []
        self.trunk.clear()
        if self.drafter is not None:
            self.drafter.clear()
        self._in_step = False

    # ---- prompts -------------------------------------------------------------------------------------------------

    def prefill(self, prompt: Prompt, progress: Callable[[int, int], None] | None = None) -> int:
        """Evaluate a prompt, or what of it is new, so that the next token can be sampled.

        Args:
            prompt: token ids and inserts; the last item is a token.
            progress: is told after each call how many cells are done, and how many there are.

        Returns:
            How many cells were there already.

        Raises:
            ContextError: it does not fit into the context.
            ModelError: llama.cpp fails.

        """
        if not prompt or isinstance(prompt[-1], MediaChunk):
            raise ContextError("prompt: is empty or does not end with text; add some")
        total = n_cells(prompt)
        if total > self.trunk.n_ctx:
            raise ContextError(
                f"prompt: {total:,} tokens do not fit into a context of {self.trunk.n_ctx:,}; raise n_ctx"
            )
        self._unsure, self._step, self._timing = [], [], None
        self._measure()
        items: list[Item] = [item.key if isinstance(item, MediaChunk) else item for item in prompt]
        start = self._reuse(items, interrupted=self._in_step)
        reused = self._cells
        cuts = [cut for cut in self._cuts(items) if cut > start]
        first = cuts[:1] if not start else []
        remembered = {*first, *cuts[-NEWEST:]}
        for cut in [*cuts, len(items)]:
            self._evaluate(prompt[len(self._items) : cut], last=cut == len(items), total=total, progress=progress)
            if cut in remembered:
                self._remember()
            if cut != len(items):
                self._save()
        self._in_step = False
        return reused

    def _cuts(self, items: Sequence[Item]) -> list[int]:
        """Where calls end and checkpoints may be taken; it depends on what stands before only.

        So the same prompt is cut in the same places whether or not a part of it was reused, and gives the same logits
        to the last bit.
        """
        cuts = []
        last = 0
        for i, item in enumerate(items):
            if i and (item == self._boundary or i - last == EVERY):
                cuts.append(i)
                last = i
        if self._boundary not in items and len(items) > 1 and last != len(items) - 1:
            cuts.append(len(items) - 1)  # so that a raw prompt can be taken up again
        return cuts

    def _evaluate(self, part: Prompt, *, last: bool, total: int, progress: Callable[[int, int], None] | None) -> None:
        at = 0
        while at < len(part):
            item = part[at]
            if isinstance(item, MediaChunk):
                item.evaluate(self.trunk, self._pos)
                self._items.append(item.key)
                self._pos, self._cells = self._pos + item.n_pos, self._cells + item.n_cells
                if self.drafter is not None:
                    self.drafter.skip((item.n_cells - 1) % self.trunk.n_batch + 1, self._pos)
                at += 1
            else:
                tokens: list[int] = []
                for following in part[at : at + self.trunk.n_batch]:
                    if isinstance(following, MediaChunk):
                        break
                    tokens.append(following)
                at += len(tokens)
                self.trunk.evaluate(tokens, self._pos, outputs=int(last and at == len(part)))
                if self.drafter is not None:
                    self.drafter.follow(tokens, self._pos)
                self._items += tokens
                self._pos, self._cells = self._pos + len(tokens), self._cells + len(tokens)
            if progress is not None:
                progress(self._cells, total)

    def _measure(self) -> None:
        """Measure what a step costs, once, on the context that is still empty."""
        if self.tuner is not None and not self.tuner.ready and self.drafter is not None and not self._items:
            self.tuner.measured(*measure_costs(self.trunk, self.drafter, self.tuner.max_depth))

    # ---- what can be used again ----------------------------------------------------------------------------------

    def _reuse(self, items: Sequence[Item], *, interrupted: bool) -> int:
        """Bring the context to the longest known prefix of `items`; return how many items that is.

        After an interrupt the keys and values of what is noted are there, and the recurrent states are anywhere: a
        checkpoint still serves, the states as they are do not.
        """
        found: list[tuple[int, Checkpoint | None, Snapshot | None]] = [
            (*self._usable(self._items, items, as_it_is=not interrupted), None)
        ]
        for known in [*self.cache.snapshots(), *self._on_disk]:
            found.append((*self._usable(known.items, items), known))
        length, checkpoint, snapshot = max(found, key=lambda entry: entry[0])
        if not interrupted and len(self._items) - length >= WORTH_KEEPING and length < len(self._items) // 2:
            self._keep()
        self._in_step = True
        if snapshot is not None and not self._load(snapshot):
            return self._reuse(items, interrupted=True)  # that snapshot is no longer known
        if not length or (checkpoint is not None and not self._put_back(checkpoint)):
            self.clear()
            self._in_step = True
        self.cache.use_prefixes(items)
        return len(self._items)

    def _usable(
        self, held: Sequence[Item], wanted: Sequence[Item], *, as_it_is: bool = True
    ) -> tuple[int, Checkpoint | None]:
        """How many items of `wanted` a context that holds `held` gives, and the checkpoint to put back for it.

        One item at least is to be evaluated, for its logits.
        """
        common = common_prefix(held, wanted)
        if as_it_is and common == len(held) < len(wanted):
            return common, None
        checkpoint = self.cache.checkpoint(wanted, min(common, len(wanted) - 1))
        return (len(checkpoint.items), checkpoint) if checkpoint else (0, None)

    def _put_back(self, checkpoint: Checkpoint) -> bool:
        del self._items[len(checkpoint.items) :]
        self._pos, self._cells = checkpoint.n_pos, checkpoint.n_cells
        if not self.trunk.restore(checkpoint.state, partial=True) or not self.trunk.remove(checkpoint.n_pos):
            return False
        if self.drafter is not None:
            self.drafter.rewind(self._pos, checkpoint.hidden)
        return True

    def _load(self, snapshot: Snapshot) -> bool:
        """Put a snapshot in place of what the context holds; False if it cannot be had, and then it is forgotten."""
        whole = snapshot
        if snapshot.path is not None:
            read = self._folder.read(snapshot) if self._folder else None
            whole = read or snapshot
        self.clear()
        self._in_step = True
        if not whole.state.nbytes or not self.trunk.restore(whole.state, partial=False):
            if snapshot.path is not None:
                self._on_disk.remove(snapshot)
            else:
                self.cache.remove(snapshot)
            return False
        self._items, self._pos, self._cells = list(whole.items), whole.n_pos, whole.n_cells
        if self.drafter is not None:
            self.drafter.rewind(self._pos, whole.hidden)
        return True

    def _remember(self) -> None:
        state = self.trunk.state(partial=True)
        if self._fit_cache:
            self.cache.max_bytes = CHECKPOINTS * (state.nbytes + 8 * self.trunk.n_ctx)
        self.cache.add(Checkpoint(list(self._items), self._pos, self._cells, state, self._hidden()))

    def _keep(self) -> None:
        """Take a snapshot of the sequence, if it leaves room for checkpoints."""
        if self.trunk.state_size(partial=False) <= self.cache.max_bytes // 2:
            self.cache.add(self._snapshot())

    def _save(self) -> None:
        """Write a snapshot to disk if much of the sequence is not there yet."""
        if self._folder is None:
            return
        known = max((common_prefix(s.items, self._items) for s in self._on_disk), default=0)
        if len(self._items) - known < SAVED_EVERY:
            return
        snapshot = self._snapshot()
        try:
            path = self._folder.save(snapshot)
        except OutputError as error:
            log.warning("%s; states are no longer saved", error)
            self._folder = None
            return
        listed = Snapshot(snapshot.items, snapshot.n_pos, snapshot.n_cells, snapshot.state[:0], path=path)
        self._on_disk.append(listed)

    def _snapshot(self) -> Snapshot:
        return Snapshot(list(self._items), self._pos, self._cells, self.trunk.state(partial=False), self._hidden())

    def _hidden(self) -> Any:
        drafter = self.drafter
        return None if drafter is None or drafter.hidden is None else drafter.hidden.copy()

    # ---- generation ----------------------------------------------------------------------------------------------

    def force(self, tokens: Sequence[int]) -> None:
        """Let `tokens` follow the one that `generate` gave last, in place of sampling."""
        self._forced += tokens

    def generate(self, sampler: Sampler, *, limit: int, depth: Depth | None = None) -> Generator[int, None, None]:
        """Sample tokens after `prefill`, until the caller stops or the context is full.

        With drafts each step evaluates the last token and the drafts after it; as long as the sampled token is the
        draft, its row is there already. What is sampled is the same as without.

        Args:
            sampler: chooses; every token is counted by it.
            limit: how many tokens the caller will take at most.
            depth: tokens drafted each step; by default that of the engine.

        Raises:
            ModelError: llama.cpp fails.

        """
        self.drafts, self._forced = Drafts(), []
        depth = self._depth if depth is None else depth
        row = -1
        try:
            for number in range(1, limit + 1):
                token = sampler.sample(self.trunk, row)
                yield token
                forced, self._forced = self._forced, []
                if self._unsure and token == self._unsure[0] and not forced:
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
                self._timing = None  # the caller stopped, which says nothing of the drafts
                self._settle()

    def _accept(self) -> None:
        token = self._unsure.pop(0)
        self._items.append(token)
        self._step.append(token)
        self._pos, self._cells = self._pos + 1, self._cells + 1
        self.drafts.accepted += 1

    def _advance(self, token: int, forced: list[int], most: int, depth: Depth) -> int:
        """Evaluate a token and what is forced or drafted after it; return the row to sample from next."""
        self._settle()
        drafts: list[int] = []
        start = time.perf_counter()
        if self.drafter is not None and not forced:
            wanted = self.tuner.next() if depth == "auto" and self.tuner is not None else int(depth)
            if min(wanted, most) > 0:
                drafts = self.drafter.draft(token, self._pos, min(wanted, most))
        drafted = time.perf_counter()
        self._in_step = True
        known = [token, *forced]
        for at in range(0, len(known), self.trunk.n_batch):
            part = known[at : at + self.trunk.n_batch]
            final = at + len(part) == len(known)
            self.trunk.evaluate([*part, *drafts] if final else part, self._pos, outputs=1 + len(drafts) if final else 0)
            if self.drafter is not None and not final:
                self.drafter.follow(part, self._pos)
            self._items += part
            self._pos, self._cells = self._pos + len(part), self._cells + len(part)
        self._step, self._unsure = part, drafts
        self._in_step = False
        self.drafts.drafted += len(drafts)
        if depth == "auto" and not forced:
            self.trunk.logits(-1)  # waits for the device
            self._timing = (len(drafts), time.perf_counter() - drafted, drafted - start)
        else:
            self._timing = None
        return len(part) - 1

    def _settle(self) -> None:
        """Give up drafts that were not taken, and tell the head and the tuner how the last step went."""
        if not self._step:
            return
        if self._unsure and not self.trunk.remove(self._pos):
            self._in_step = True
            raise ModelError("llama.cpp cannot take drafts back")
        if self.drafter is not None:
            self.drafter.follow(self._step, self._pos - len(self._step))
        if self._timing is not None and self.tuner is not None:
            drafts, verify_seconds, draft_seconds = self._timing
            self.tuner.record(drafts, len(self._step) - 1, verify_seconds, draft_seconds)
        self._step, self._unsure, self._timing = [], [], None
