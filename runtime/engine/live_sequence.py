"""What a context holds: its items, states copied from it and restored into it, and what of a prompt it spares."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qwen35_gguf.errors import ModelError, OutputError
from qwen35_gguf.runtime.engine.mtp import Drafter
from qwen35_gguf.runtime.engine.prefix_cache import (
    FloatArray,
    Item,
    PrefixCache,
    RecurrentState,
    SequenceState,
    continued_by,
)
from qwen35_gguf.runtime.engine.reuse import (
    CacheInfo,
    PromptReuse,
    Source,
    explain,
    find_source,
    held_sequences,
    worth_keeping,
)
from qwen35_gguf.runtime.engine.state_store import StateStore
from qwen35_gguf.runtime.llama.context import Context

log = logging.getLogger(__name__)

CACHED_STATES, MOST_STATES = 8, 32  # recurrent states for which the cache has room by default, at least and at most
SAVED_EVERY = 1024  # new tokens that make it worth writing a state to disk


class LiveSequence:
    """The sequence in a context, and the states that may replace it.

    Attributes:
        items: what the context holds.
        pos: the position of what follows.
        cells: of the context that are in use.
        n_prompt: see `SequenceState`.
        in_step: llama.cpp's memory may differ from what is recorded here.
        cache: of states in memory.

    """

    def __init__(
        self,
        main: Context,
        drafter: Drafter | None,
        *,
        cache_bytes: int | None,
        cached_states: int,
        store: StateStore | None,
    ) -> None:
        """Begin with an empty context.

        Args:
            main: the context.
            drafter: the MTP head, in sync with it.
            cache_bytes: of states in memory; None: of `cached_states` recurrent states.
            cached_states: see there.
            store: where states are kept between runs.

        """
        self._main, self._drafter, self._store = main, drafter, store
        self._fit_cache = cached_states if cache_bytes is None else 0  # as soon as the size of a state is known
        self.cache = PrefixCache(cache_bytes or 0)
        self.items: list[Item] = []
        self.pos = self.cells = self.n_prompt = 0
        self.in_step = False
        self._last: PromptReuse | None = None

    def append(self, items: Sequence[Item], n_pos: int, n_cells: int) -> None:
        """Record what the context has evaluated."""
        self.items += items
        self.pos, self.cells = self.pos + n_pos, self.cells + n_cells

    def clear(self) -> None:
        """Empty the context; recurrent states of what it held are useless then without a sequence state."""
        # Recorded first: an interrupt may come in between, and what is recorded must be in the context.
        self.items, self.pos, self.cells = [], 0, 0
        self._main.clear()
        if self._drafter is not None:
            self._drafter.clear()
        self.in_step = False

    def info(self) -> CacheInfo:
        """Return what is held, and what became of the last prompt."""
        held = held_sequences(self.items, self.cache, self._stored)
        return CacheInfo(self.cache.max_bytes, self.cache.n_bytes, held, self._last)

    @property
    def _stored(self) -> list[SequenceState]:
        return self._store.states if self._store is not None else []

    def _held(self, live: Sequence[Item]) -> list[Sequence[Item]]:
        """Return the sequences outside of the cache to which recurrent states may belong."""
        return [live, *(state.items for state in self._stored)]

    def reuse(self, items: Sequence[Item], *, interrupted: bool) -> Source:
        """Bring the context to the longest known prefix of `items`.

        After an interrupt the keys and values of the recorded items are there, but the recurrent states may be of any
        position: a copy still serves, the states as they are do not.
        """
        first = self._last is None
        source = find_source(self.items, items, self.cache, self._stored, interrupted=interrupted)
        self.cache.use_prefixes(items)
        if source.whole is not None and source.whole in self.cache and continued_by(source.whole, items):
            self.cache.remove(source.whole)  # it becomes the live one
        if not interrupted and worth_keeping(self.items, self.n_prompt, items, self.cache.sequence_states()):
            self._keep(items)
        self.in_step = True
        if source.whole is not None and not self._load(source.whole):
            return self.reuse(items, interrupted=True)  # that state is dropped now
        if not source.length or (source.recurrent is not None and not self._restore(source.recurrent)):
            self.clear()
            self.in_step = True
        self._last = explain(source, items, self.cache, reused=len(self.items), first=first)
        return source

    def _restore(self, state: RecurrentState) -> bool:
        del self.items[len(state.items) :]
        self.pos, self.cells = state.n_pos, state.n_cells
        if not self._main.restore(state.state, partial=True) or not self._main.remove(state.n_pos):
            return False
        if self._drafter is not None:
            self._drafter.rewind(self.pos, state.hidden)
        return True

    def _load(self, state: SequenceState) -> bool:
        """Replace what the context holds by a state; False if that fails, and then the state is dropped."""
        whole = state
        if state.path is not None and self._store is not None:
            whole = self._store.read(state) or state
        if not whole.state.nbytes or not self._replace(whole):
            if state.path is not None and self._store is not None:
                self._store.states.remove(state)
            elif state in self.cache:
                self.cache.remove(state)
            return False
        return True

    def _replace(self, whole: SequenceState) -> bool:
        self.clear()
        self.in_step = True
        if not self._main.restore(whole.state, partial=False):
            return False
        self.items, self.pos, self.cells = list(whole.items), whole.n_pos, whole.n_cells
        if self._drafter is not None:
            self._drafter.rewind(self.pos, whole.hidden)
        return True

    def resume(self, sequence: SequenceState) -> None:
        """Replace what the context holds by a state that was copied from it; that is kept if it is worth it.

        Raises:
            ModelError: llama.cpp does not take the state back.

        """
        if not self.in_step and worth_keeping(self.items, self.n_prompt, sequence.items, self.cache.sequence_states()):
            self._keep(sequence.items)
        if not self._replace(sequence):
            raise ModelError("generation: its state cannot be restored; ask again")
        self.n_prompt, self.in_step = sequence.n_prompt, False

    def keep_recurrent_state(self) -> None:
        """Copy the recurrent states as they are now."""
        state = self._main.state(partial=True)
        if self._fit_cache:
            self.cache.max_bytes = self._fit_cache * (state.nbytes + 8 * self._main.n_ctx)
        held = RecurrentState(list(self.items), self.pos, self.cells, state, self._hidden())
        self.cache.add(held, self._held(self.items))

    def _keep(self, successor: Sequence[Item]) -> None:
        """Keep the whole live sequence, which `successor` replaces, if it fits into the budget at all."""
        if self._main.state_size(partial=False) + 8 * len(self.items) > self.cache.max_bytes:
            self.cache.dropped.append(list(self.items))
        else:
            self.cache.add(self.state(), self._held(successor))

    def save(self) -> None:
        """Write the sequence to disk if much of it is not there yet."""
        if self._store is None or len(self.items) - self._store.covers(self.items) < SAVED_EVERY:
            return
        try:
            self._store.save(self.state())
        except OutputError as error:
            log.warning("%s; states are no longer saved", error)
            self._store = None

    def state(self) -> SequenceState:
        """Copy everything."""
        state = self._main.state(partial=False)
        items = list(self.items)
        return SequenceState(items, self.pos, self.cells, state, self._hidden(), n_prompt=self.n_prompt)

    def _hidden(self) -> FloatArray | None:
        drafter = self._drafter
        return None if drafter is None or drafter.hidden is None else drafter.hidden.copy()
