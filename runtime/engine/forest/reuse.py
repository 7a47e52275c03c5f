"""Where a prompt's beginning comes from: the live sequence, a kept one, one on disk, or nowhere, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qwen35_gguf.runtime.engine.forest.divergence import Divergence
from qwen35_gguf.runtime.engine.forest.prefix_cache import (
    Item,
    PrefixCache,
    RecurrentState,
    SequenceState,
    begins_with,
    common_prefix,
)

# Items that must be lost with the live sequence for it to be kept: copying a state takes as long as evaluating a few.
WORTH_KEEPING = 16
NEWEST = 3  # messages at the end of a prompt before which a state is kept, beside the first

Place = Literal["context", "memory", "disk"]


@dataclass(frozen=True)
class Source:
    """What gives the beginning of a prompt.

    Attributes:
        length: items that need not be evaluated.
        recurrent: the recurrent states to restore; None: those of the sequence.
        whole: the sequence to load first; None: one in the context.
        shared: items that the most similar of all known sequences shares with the prompt.
        other: number of another sequence of the context that has the keys and values; None: the live one has.

    """

    length: int
    recurrent: RecurrentState | None
    whole: SequenceState | None
    shared: int
    other: int | None = None

    @property
    def place(self) -> Place:
        """Where the sequence is."""
        if self.whole is None:
            return "context"
        return "memory" if self.whole.path is None else "disk"


def find_source(
    live: Sequence[Item],
    wanted: Sequence[Item],
    cache: PrefixCache,
    stored: Iterable[SequenceState] = (),
    *,
    others: Sequence[Sequence[Item]] = (),
    interrupted: bool = False,
) -> Source:
    """Find what gives the longest beginning of a prompt.

    Args:
        live: items that the context holds.
        wanted: the prompt.
        cache: states in memory.
        stored: sequences on disk.
        others: items of other sequences of the context.
        interrupted: the context's keys and values are those of `live`, its recurrent states may be of any position.

    """
    found = [_usable(live, wanted, cache, None, as_it_is=not interrupted)]
    beside = (_usable(items, wanted, cache, None, as_it_is=False) for items in others)
    found += [replace(source, other=number) for number, source in enumerate(beside)]
    found += [_usable(known.items, wanted, cache, known) for known in (*cache.sequence_states(), *stored)]
    best = max(found, key=lambda source: source.length)
    shared = max(source.shared for source in found)
    return replace(best, shared=shared)


def _usable(
    held: Sequence[Item],
    wanted: Sequence[Item],
    cache: PrefixCache,
    whole: SequenceState | None,
    *,
    as_it_is: bool = True,
) -> Source:
    """Return what a sequence gives; at least one item must be evaluated, for its logits."""
    common = common_prefix(held, wanted)
    if as_it_is and common == len(held) < len(wanted):
        return Source(common, None, whole, common)
    state = cache.recurrent_state(wanted, min(common, len(wanted) - 1))
    return Source(len(state.items), state, whole, common) if state else Source(0, None, whole, common)


def worth_keeping(
    live: Sequence[Item],
    n_prompt: int,
    wanted: Sequence[Item],
    kept: Iterable[SequenceState] = (),
    beside: Iterable[Sequence[Item]] = (),
) -> bool:
    """Decide whether the live sequence is kept when `wanted` replaces it: by what no other sequence shares with it.

    A prompt that shares all of the live one's first `n_prompt` items continues its conversation, or asks for another
    answer: what is lost then is an answer that the next prompt does not contain in this form.
    """
    known = (wanted, *(state.items for state in kept), *beside)
    shared = max(common_prefix(live, other) for other in known)
    return shared < n_prompt and len(live) - shared >= WORTH_KEEPING


def useful_stops(
    stops: Sequence[int], items: Sequence[Item], message_start: Item | None, *, start: int, shared: int
) -> set[int]:
    """Choose the boundaries of a prompt after which a recurrent state is kept.

    The end of the first message (the system prompt, which other conversations share), the last three messages (the next
    turn, another answer, an edited question), the last boundary inside of a long text, and the last one that this
    prompt shares with a known sequence: what two prompts share, a third one may.

    Args:
        stops: boundaries that are still to be evaluated.
        items: the prompt.
        message_start: see `boundaries`.
        start: items that are restored.
        shared: see `Source`.

    """
    messages = [stop for stop in stops if items[stop] == message_start]
    inside = [stop for stop in stops if items[stop] != message_start]
    first = (messages or list(stops))[:1] if not start else []
    common = [stop for stop in stops if stop <= shared]
    return {*first, *messages[-NEWEST:], *inside[-1 if messages else -2 :], *common[-1:]}


@dataclass(frozen=True)
class PromptReuse:
    """What became of the last prompt.

    Attributes:
        tokens: items of the prompt; an image is one.
        reused: of these, those that were not evaluated.
        shared: those at the beginning that the most similar known sequence has, too.
        place: where the reused sequence was; None if nothing was reused.
        reason: why no more was reused, in words.
        divergence: the change that cost it; None without one.

    """

    tokens: int
    reused: int
    shared: int
    place: Place | None
    reason: str
    divergence: Divergence | None = None


@dataclass(frozen=True)
class HeldSequence:
    """A sequence of which a prompt may reuse a beginning.

    Attributes:
        tokens: items of it.
        place: the context, memory or disk.
        n_bytes: in memory, without its recurrent states.
        states: lengths of the beginnings that can be restored apart from the whole, the shortest first.

    """

    tokens: int
    place: Place
    n_bytes: int
    states: tuple[int, ...]


@dataclass(frozen=True)
class CacheInfo:
    """What the prefix cache holds.

    Attributes:
        max_bytes: the budget; it is set when the first state is kept, unless `cache_bytes` gives it.
        n_bytes: in use.
        sequences: the live one first, then the most recently used.
        last: what became of the last prompt; None before the first.

    """

    max_bytes: int
    n_bytes: int
    sequences: tuple[HeldSequence, ...]
    last: PromptReuse | None


def held_sequences(
    live: Iterable[Sequence[Item]], cache: PrefixCache, stored: Iterable[SequenceState]
) -> tuple[HeldSequence, ...]:
    """List the sequences of which something can be reused."""

    def states(items: Sequence[Item]) -> tuple[int, ...]:
        return tuple(sorted(len(s.items) for s in cache.recurrent_states() if begins_with(items, s.items)))

    found = [HeldSequence(len(items), "context", 0, states(items)) for items in live if items]
    found += [HeldSequence(len(s.items), "memory", s.n_bytes, states(s.items)) for s in cache.sequence_states()]
    return (*found, *(HeldSequence(len(s.items), "disk", 0, states(s.items)) for s in stored))


def explain(source: Source, wanted: Sequence[Item], cache: PrefixCache, *, reused: int, first: bool) -> PromptReuse:
    """Say what became of a prompt.

    Args:
        source: as found for it.
        wanted: the prompt.
        cache: states in memory.
        reused: items that were reused in the end.
        first: nothing was evaluated before.

    """
    shared = source.shared
    lost = max((common_prefix(items, wanted) for items in cache.dropped), default=0)
    if reused and reused >= shared - 1:
        reason = "all that a known sequence shares with it is reused"
    elif first:
        reason = "it is the first prompt"
    elif not cache.max_bytes:
        reason = "cache_bytes is 0: no states are kept"
    elif lost > shared and lost > reused:
        reason = f"a sequence that shares {lost:,} tokens was dropped to stay within cache_bytes ({cache.max_bytes:,})"
    elif reused < source.length:
        reason = "a kept state could not be restored"
    elif shared:
        reason = f"known sequences share {shared:,} tokens with it; the last kept state before that is at {reused:,}"
    else:
        reason = "no known sequence begins as it does"
    return PromptReuse(len(wanted), reused, shared, source.place if reused else None, reason)
