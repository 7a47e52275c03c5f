"""What is known of earlier prompts, for all sequences of a context: shared cells, states in memory and on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from qwen35_gguf.errors import Qwen35Error
from qwen35_gguf.runtime.engine.forest.divergence import Divergence, find_divergence
from qwen35_gguf.runtime.engine.forest.live_sequence import LiveSequence
from qwen35_gguf.runtime.engine.forest.optional_copy import optional_copy
from qwen35_gguf.runtime.engine.forest.prefix_cache import Item, PrefixCache, SequenceState, common_prefix
from qwen35_gguf.runtime.engine.forest.reuse import CacheInfo, PromptReuse, Source, explain, held_sequences
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
from qwen35_gguf.runtime.engine.scope import scope_of


class Forest:
    """The prefixes that prompts may begin with.

    Attributes:
        cache: of states in memory.
        store: of states on disk; None without.
        sequences: of the context, running or not.

    """

    def __init__(
        self,
        cache_bytes: int | None,
        cached_states: int,
        store: StateStore | None,
        sequences: Sequence[LiveSequence],
        message_start: int | None = None,
    ) -> None:
        """Begin with what is on disk.

        Args:
            cache_bytes: of states in memory; None: of `cached_states` recurrent states.
            cached_states: see there.
            store: where states are kept between runs.
            sequences: of the context.
            message_start: the token that begins a message.

        """
        self._message_start = message_start
        self._fit_cache = cached_states if cache_bytes is None else 0  # as soon as the size of a state is known
        self.cache = PrefixCache(cache_bytes or 0)
        self.store, self.sequences = store, list(sequences)
        self._last: PromptReuse | None = None

    @property
    def stored(self) -> list[SequenceState]:
        """What is on disk, without the bytes."""
        return self.store.states if self.store is not None else []

    def held(self) -> list[Sequence[Item]]:
        """Return the sequences outside of the cache to which recurrent states may belong."""
        return [*(one.items for one in self.sequences), *(state.items for state in self.stored)]

    def choose(self, idle: Sequence[LiveSequence], items: Sequence[Item]) -> LiveSequence:
        """Choose the sequence that takes a prompt: the one that it continues, an empty one, or the one unused longest.

        A prompt that shares only the beginning of a sequence leaves it as it is, if there is another one.
        """
        shared = {one.seq: common_prefix(one.items, items) for one in idle}
        continued = [one for one in idle if one.items and shared[one.seq] >= min(one.n_prompt or 1, len(one.items))]
        if continued:
            return max(continued, key=lambda one: shared[one.seq])
        return min(idle, key=lambda one: (bool(one.items), shared[one.seq] > 0 and len(idle) > 1, one.used))

    def prepare(self, target: LiveSequence, items: Sequence[Item]) -> tuple[Source, PromptReuse]:
        """Bring a sequence to the longest known prefix of `items`."""
        first = self._last is None
        others = [one for one in self.sequences if one is not target]
        divergence = self._divergence(items)
        source = target.reuse(items, self.cache, self.store, others)
        found = explain(source, items, self.cache, reused=len(target.items), first=first)
        self._last = replace(found, divergence=divergence)
        return source, self._last

    def _divergence(self, items: Sequence[Item]) -> Divergence | None:
        """Find where a prompt differs inside the prompt of the known sequence that it resembles most."""
        known = [(one.items, one.n_prompt) for one in self.sequences]
        known += [(state.items, state.n_prompt) for state in self.cache.sequence_states()]
        known += [(state.items, 0) for state in self.stored]
        known = [pair for pair in known if scope_of(pair[0]) == scope_of(items)]  # a miss shows texts
        if not known:
            return None
        shared, number = max((common_prefix(held, items), i) for i, (held, _) in enumerate(known))
        held, n_prompt = known[number]
        if shared >= (n_prompt or len(held)):
            return None
        return find_divergence(held, items, shared, self._message_start)

    def keep(self, live: LiveSequence) -> None:
        """Copy the recurrent states of a sequence as they are now."""
        with optional_copy():
            state = live.recurrent_state()
            if self._fit_cache:
                self.cache.max_bytes = self._fit_cache * (live.recurrent_bytes() + 8 * live.n_ctx)
            self.cache.add(state, self.held())

    def save(self) -> None:
        """Write what the sequences hold to disk; nothing runs any more."""
        store = self.store
        if store is None:
            return
        for one in self.sequences:
            store.flush()
            if one.items and not one.in_step:
                with contextlib.suppress(Qwen35Error):  # of llama.cpp: then the next run begins without it
                    one.save_prompt(self.cache, store)
        store.flush()

    def read_newest(self) -> None:
        """Begin with the newest states on disk; nothing is held yet."""
        if self.store is None:
            return
        # One that a larger context has written would take the cells of other sequences.
        fitting = [state for state in self.store.newest() if state.n_cells <= self.sequences[0].n_ctx]
        for one, state in zip(self.sequences, fitting, strict=False):
            one.read_in(state, self.store)

    def info(self) -> CacheInfo:
        """Return what is held, and what became of the last prompt."""
        held = held_sequences([one.items for one in self.sequences], self.cache, self.stored)
        return CacheInfo(self.cache.max_bytes, self.cache.n_bytes, held, self._last)
