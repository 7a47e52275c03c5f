"""What a sequence of a context holds: its items, states copied from it and restored into it."""

from __future__ import annotations

from collections.abc import Sequence

from qwen35_gguf.errors import ModelError
from qwen35_gguf.runtime.engine.drafts.mtp import Drafter
from qwen35_gguf.runtime.engine.forest.optional_copy import optional_copy
from qwen35_gguf.runtime.engine.forest.prefix_cache import (
    FloatArray,
    Item,
    PrefixCache,
    RecurrentState,
    SequenceState,
    continued_by,
)
from qwen35_gguf.runtime.engine.forest.reuse import Source, find_source, worth_keeping
from qwen35_gguf.runtime.engine.forest.state_packing import pack, unpack
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
from qwen35_gguf.runtime.llama.context import Context

CACHED_STATES, MOST_STATES = 8, 32  # recurrent states for which the cache has room by default, at least and at most
SAVED_EVERY = 1024  # new tokens that make it worth writing a state to disk
SAVED_LAST = 8  # of these, when the model is closed: a call of fewer takes as long


class LiveSequence:
    """One sequence of a context.

    Attributes:
        n_ctx: cells that it may take.
        seq: its number.
        drafter: its side of the MTP head; None without drafts.
        items: what the context holds of it.
        pos: the position of what follows.
        cells: of the context that are in use.
        n_prompt: see `SequenceState`.
        used: a number that grows with each use, of all sequences.
        in_step: llama.cpp's memory may differ from what is recorded here.

    """

    def __init__(
        self, main: Context, n_ctx: int, seq: int = 0, drafter: Drafter | None = None, *, exact: bool = False
    ) -> None:
        """Begin with nothing.

        Args:
            main: the context.
            n_ctx: cells that it may take.
            seq: its number.
            drafter: its side of the MTP head.
            exact: reuse only what was evaluated in the calls in which it would be evaluated again.

        """
        self._main, self.n_ctx, self.seq, self.drafter, self._exact = main, n_ctx, seq, drafter, exact
        self.items: list[Item] = []
        self.pos = self.cells = self.n_prompt = self.used = 0
        self.in_step = False

    def append(self, items: Sequence[Item], n_pos: int, n_cells: int) -> None:
        """Record what the context has evaluated."""
        self.items += items
        self.pos, self.cells = self.pos + n_pos, self.cells + n_cells

    def clear(self) -> None:
        """Empty the sequence; recurrent states of what it held are useless then without another one that has it."""
        # Recorded first: what is recorded must be in the context.
        self.items, self.pos, self.cells = [], 0, 0
        self._main.remove(0, seq=self.seq)
        if self.drafter is not None:
            self.drafter.clear()
        self.in_step = False

    def roll_back(self) -> None:
        """Remove what was evaluated after what is recorded, which must be drafts of the last call.

        Raises:
            ModelError: llama.cpp cannot.

        """
        if not self._main.remove(self.pos, seq=self.seq):
            self.in_step = True
            raise ModelError("llama.cpp cannot roll drafts back")

    # ---- prompts -------------------------------------------------------------------------------------------------

    def reuse(
        self, items: Sequence[Item], cache: PrefixCache, store: StateStore | None, others: Sequence[LiveSequence]
    ) -> Source:
        """Bring the sequence to the longest known prefix of `items`.

        After an interrupt the keys and values of the recorded items are there, but the recurrent states may be of any
        position: a copy still serves, the states as they are do not.

        Args:
            items: of the prompt.
            cache: of states in memory; what the sequence held is kept there if that is worth it.
            store: of states on disk.
            others: sequences of the context, whose keys and values may be shared.

        """
        stored = store.states if store is not None else []
        beside = [one.items for one in others]
        as_it_is = not self.in_step and not self._exact
        source = find_source(self.items, items, cache, stored, others=beside, interrupted=not as_it_is)
        cache.use_prefixes(items)
        if source.whole is not None and source.whole in cache and continued_by(source.whole, items):
            cache.remove(source.whole)  # it becomes the live one
        if not self.in_step and worth_keeping(self.items, self.n_prompt, items, cache.sequence_states(), beside):
            self._keep(items, cache, [*beside, *(state.items for state in stored)])
        self.in_step = True
        if source.whole is not None and not self._load(source.whole, cache, store):
            return self.reuse(items, cache, store, others)  # that state is dropped now
        if source.other is not None and source.recurrent is not None:
            self._share(others[source.other], source.recurrent)
        if not source.length or (source.recurrent is not None and not self._restore(source.recurrent)):
            self.clear()
            self.in_step = True
        return source

    def _share(self, other: LiveSequence, state: RecurrentState) -> None:
        """Take another sequence's keys and values up to a recurrent state, which is restored then."""
        self.clear()
        self.in_step = True
        if self._main.spec.separate:
            copied = None
            with optional_copy():
                copied = other.state().state
            if copied is None or not self._main.restore(copied, partial=False, seq=self.seq):
                return
        else:
            self._main.share(other.seq, self.seq, state.n_pos)
        self.items = list(other.items[: len(state.items)])

    def _restore(self, state: RecurrentState) -> bool:
        del self.items[len(state.items) :]
        if len(self.items) < len(state.items):
            return False
        self.pos, self.cells = state.n_pos, state.n_cells
        if not self._main.restore(unpack(state.state, self._main.spec.checkpoint_type), partial=True, seq=self.seq):
            return False
        if not self._main.remove(state.n_pos, seq=self.seq):
            return False
        if self.drafter is not None:
            self.drafter.rewind(self.pos, state.hidden)
        return True

    def _load(self, state: SequenceState, cache: PrefixCache, store: StateStore | None) -> bool:
        """Replace what the sequence holds by a state; False if that fails, and then the state is dropped."""
        whole = state
        if state.path is not None and store is not None:
            whole = store.read(state) or state
        if not whole.state.nbytes or not self._replace(whole):
            if state.path is not None and store is not None:
                store.forget(state)
            elif state in cache:
                cache.remove(state)
            return False
        return True

    def _replace(self, whole: SequenceState) -> bool:
        self.clear()
        self.in_step = True
        if not self._main.restore(whole.state, partial=False, seq=self.seq):
            return False
        self.items, self.pos, self.cells = list(whole.items), whole.n_pos, whole.n_cells
        if self.drafter is not None:
            self.drafter.rewind(self.pos, whole.hidden)
        return True

    def resume(self, sequence: SequenceState, cache: PrefixCache, others: Sequence[LiveSequence]) -> None:
        """Replace what the sequence holds by a state that was copied; what it held is kept if it is worth it.

        Raises:
            ModelError: llama.cpp does not take the state back.

        """
        beside = [one.items for one in others]
        if not self.in_step and worth_keeping(
            self.items, self.n_prompt, sequence.items, cache.sequence_states(), beside
        ):
            self._keep(sequence.items, cache, beside)
        if not self._replace(sequence):
            raise ModelError("generation: its state cannot be restored; ask again")
        self.n_prompt, self.in_step = sequence.n_prompt, False

    # ---- copies --------------------------------------------------------------------------------------------------

    def recurrent_state(self) -> RecurrentState:
        """Copy the recurrent states as they are now."""
        state = pack(self._main.state(partial=True, seq=self.seq), self._main.spec.checkpoint_type)
        return RecurrentState(list(self.items), self.pos, self.cells, state, self._hidden())

    def recurrent_bytes(self) -> int:
        """Return the bytes of a copy of the recurrent states that is not packed."""
        return self._main.state_size(partial=True, seq=self.seq)

    def state(self) -> SequenceState:
        """Copy everything."""
        state = self._main.state(partial=False, seq=self.seq)
        items = list(self.items)
        return SequenceState(items, self.pos, self.cells, state, self._hidden(), n_prompt=self.n_prompt)

    def _keep(self, successor: Sequence[Item], cache: PrefixCache, held: Sequence[Sequence[Item]]) -> None:
        """Keep the whole sequence, which `successor` replaces, if it fits into the budget at all."""
        if self._main.state_size(partial=False, seq=self.seq) + 8 * len(self.items) > cache.max_bytes:
            cache.dropped.append(list(self.items))
            return
        with optional_copy():
            cache.add(self.state(), [successor, *held])

    def save_prompt(self, cache: PrefixCache, store: StateStore) -> None:
        """Write the sequence up to the end of its prompt, with which the next turn begins, and leave it there."""
        state = cache.recurrent_state(self.items, self.n_prompt)
        if state is not None and len(state.items) - store.covers(state.items) >= SAVED_LAST and self._restore(state):
            self.save(store, SAVED_LAST)

    def read_in(self, state: SequenceState, store: StateStore) -> None:
        """Begin with a state on disk; nothing is held yet."""
        whole = store.read(state)
        if whole is None or not self._replace(whole):
            store.forget(state)
            self.clear()
            return
        self.n_prompt, self.in_step = len(self.items), False

    def save(self, store: StateStore | None, least: int = SAVED_EVERY) -> None:
        """Write the sequence to disk if at least `least` tokens of it are not there yet."""
        if store is None or not store.works or store.busy or len(self.items) - store.covers(self.items) < least:
            return
        with optional_copy():
            store.save_later(self.state())

    def _hidden(self) -> FloatArray | None:
        return None if self.drafter is None or self.drafter.hidden is None else self.drafter.hidden.copy()
