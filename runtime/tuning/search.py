"""Find the settings that are fastest on this machine: a search for few, expensive and noisy trials.

Settings are changed one at a time, those first that usually matter most. A challenger races the best so far: both are
measured in turns, so that a machine that slows down slows both; a clear loser is dropped after one turn, and to win it
must be ahead in the median of the turns and in most of them. In the end the winner races the defaults once more.
Nothing here measures: `measure` does, and a failure (such as too little memory) is a result like any other. Settings
with the same effect (a plan, and the number of layers that it finds) are measured once: `effect` tells them apart.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qwen35_gguf.runtime.planning.kv_cache_type import BOUND, kv_types_within
from qwen35_gguf.runtime.settings import Settings

Goal = Literal["decode", "prefill", "balanced"]
GOALS: tuple[Goal, ...] = ("decode", "prefill", "balanced")

TURNS = 3  # of a race
DROPPED = 0.06  # a challenger that is slower by this in the first turn is out
MARGIN = 0.02  # a challenger must be faster by this: less is noise, and the defaults are well tried
OVER_FAILURE = 2.0  # the ratio of what works over what does not, or no longer does
REQUEST = (1000, 200)  # tokens of a prompt and of an answer that "balanced" means


@dataclass(frozen=True)
class Measurement:
    """What one measurement of settings gave.

    Attributes:
        prefill: tokens of a prompt per second.
        decode: generated tokens per second.
        divergence: what the KV type adds to F16's mean KL divergence from attention without rounding, in nats.
        drafting: the most that drafts gain: generated tokens per second over those without, when all are right.
        memory: peak, in bytes.
        problem: why there are no figures; empty if there are.

    """

    prefill: float = 0.0
    decode: float = 0.0
    divergence: float = 0.0
    drafting: float = 1.0
    memory: int = 0
    problem: str = ""


Measure = Callable[[Settings], Measurement]


@dataclass(frozen=True)
class Coordinate:
    """One of the settings, and what it may be.

    Attributes:
        name: a field of `Settings`.
        values: those to try.
        ordered: neighbours are tried first, and further values only in the direction that pays.
        goal: what it is judged by; None: by the goal of the search.
        rank: by which ordered values are sorted; None: they are listed from one end to the other.

    """

    name: str
    values: tuple[Any, ...]
    ordered: bool = False
    goal: Goal | None = None
    rank: Callable[[Settings], float] | None = None

    def around(self, best: Settings) -> tuple[Any, ...]:
        """Return the values, in order for these settings."""
        rank = self.rank
        if rank is None:
            return self.values
        return tuple(sorted(self.values, key=lambda value: rank(best.but(self.name, value))))


@dataclass
class Race:
    """A challenger against the best so far, in turns."""

    changed: str
    challenger: Settings
    seen: list[Measurement] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)  # of the scores, challenger over incumbent
    won: bool = False

    @property
    def problem(self) -> str:
        """Why it has no figures."""
        return next((found.problem for found in self.seen if found.problem), "")

    @property
    def ratio(self) -> float:
        """The median of its turns; 0 if it failed."""
        return 0.0 if self.problem or not self.ratios else statistics.median(self.ratios)


@dataclass
class Result:
    """What a search found.

    Attributes:
        settings: the fastest.
        gain: its score over that of the defaults, from the last race; 1 if the defaults stay, 2 if they no longer work.
        default, best: medians of the last race.
        races: all of them, in order.
        measurements: how many were made.
        trials: the number of different settings.

    """

    settings: Settings
    gain: float
    default: Measurement
    best: Measurement
    races: list[Race]
    measurements: int
    trials: int


def score(found: Measurement, goal: Goal) -> float:
    """Return tokens per second, by the goal; 0 for a failure."""
    if found.problem or found.prefill <= 0 or found.decode <= 0:
        return 0.0
    if goal == "balanced":
        prompt, answer = REQUEST
        return (prompt + answer) / (prompt / found.prefill + answer / found.decode)
    return found.prefill if goal == "prefill" else found.decode


def coordinates(
    *,
    cores: int,
    n_ctx: int,
    devices: int = 0,
    layers: int = 0,
    rank: Callable[[Settings], float] | None = None,
    host_fits: bool = True,
    logical: int | None = None,
    max_divergence: float = BOUND,
) -> list[Coordinate]:
    """List what is tried, in order of what it usually changes.

    With devices: which of them, since a slow one makes all of them lose; then the ends, since crossing to a device has
    a price that neighbours hide, as both pay it; then neighbours.

    Args:
        cores: physical ones.
        n_ctx: of the context; no batch is larger.
        devices: GPUs, and devices of RPC servers.
        layers: of the model, the output included.
        rank: how much of the model settings put on devices, so that "auto" has its place among numbers of layers.
        host_fits: whether RAM can hold the whole model.
        logical: cores as the operating system counts them.
        max_divergence: KV types that are known to add more are not tried.

    """
    counts = sorted({*(2**i for i in range(cores.bit_length())), cores, max(1, cores - 1), logical or cores})
    threads = tuple(count for count in counts if count >= min(2, cores) // 2)
    batches = tuple(size for size in (128, 256, 512, 1024, 2048) if size <= n_ctx)
    listed = []
    if devices:
        ends = (0, layers) if host_fits else (layers,)
        steps = sorted({*ends, *(round(layers * part / 8) for part in range(1, 9))})
        listed = [
            Coordinate("split", splits(devices)),
            Coordinate("gpu_layers", ("auto", *ends)),
            Coordinate("gpu_layers", ("auto", *steps), ordered=True, rank=rank),
            Coordinate("host_feed_forward", tuple(sorted({0, layers // 4, layers // 2})), ordered=True),
        ]
    listed += [
        Coordinate("threads", threads, ordered=True, goal="decode"),
        Coordinate("threads_batch", threads, ordered=True, goal="prefill"),
        Coordinate("repack", (False, True)),
        Coordinate("n_batch", batches, ordered=True, goal="prefill"),
        Coordinate("flash_attention", (True, False)),
        Coordinate("kv_type", kv_types_within(max_divergence), ordered=True),
        Coordinate("mmap", (True, False)),
        Coordinate("mlock", (False, True)),
    ]
    return [coordinate for coordinate in listed if len(coordinate.values) > 1]


def splits(devices: int) -> tuple[tuple[int, ...], ...]:
    """Return shares of several devices: as planned, each alone, and the same for all."""
    if devices < 2:
        return ((),)
    alone = (tuple(int(one == other) for other in range(devices)) for one in range(devices))
    return (), *alone, (1,) * devices


def search(
    start: Settings,
    listed: Iterable[Coordinate],
    measure: Measure,
    goal: Goal,
    *,
    deadline: float = math.inf,
    max_divergence: float = BOUND,
    effect: Callable[[Settings], Hashable] = lambda settings: settings,
    clock: Callable[[], float] = time.monotonic,
    on_race: Callable[[Race], None] = lambda _: None,
) -> Result:
    """Find the fastest settings.

    Args:
        start: the defaults, which must work.
        listed: what may change, in this order.
        measure: see `Measurement`; called several times for the same settings.
        goal: what is to be fast.
        deadline: of `clock`; no race starts after it.
        max_divergence: what costs more of it cannot win.
        effect: equal for settings that make no difference.
        clock: seconds.
        on_race: is called with each race after it.

    Returns:
        The result; if the winner is not clearly ahead of the defaults in the last race, the defaults.

    """
    counted = _Counted(measure)
    races: list[Race] = []
    best = start
    raced = {effect(start)}

    for coordinate in listed:
        values = _values(coordinate, best)
        value = next(values, None)
        while value is not None and clock() < deadline:
            challenger = best.but(coordinate.name, value)
            won = None
            if effect(challenger) not in raced:  # else it is the best itself, or has lost to one that was no better
                raced.add(effect(challenger))
                race = Race(coordinate.name, challenger)
                won = race.won = _run(counted, best, race, coordinate.goal or goal, max_divergence)
                races.append(race)
                on_race(race)
                best = challenger if won else best
            try:
                value = values.send(won)
            except StopIteration:
                break
    return _settle(counted, start, best, goal, races)


def _values(coordinate: Coordinate, best: Settings) -> Generator[Any, bool | None, None]:
    """Yield what to try; each time receive whether that won, or None if nothing was raced."""
    values, start = coordinate.around(best), getattr(best, coordinate.name)
    if not coordinate.ordered or start not in values:
        for value in values:
            if value != start:
                yield value
        return
    middle = values.index(start)
    for further in (values[:middle][::-1], values[middle + 1 :]):
        ahead = False
        for value in further:
            won = yield value
            if won is False:
                break
            ahead = ahead or won is True
        if ahead:  # the other direction has lost already
            return


class _Counted:
    """Counts measurements, and the settings that were measured."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self.count = 0
        self.different: set[Settings] = set()

    def __call__(self, settings: Settings) -> Measurement:
        self.count += 1
        self.different.add(settings)
        return self._measure(settings)


def _run(measure: Measure, best: Settings, race: Race, goal: Goal, max_divergence: float) -> bool:
    """Measure both in turns until it is clear whether the challenger is ahead."""
    for turn in range(TURNS):
        pair = (race.challenger, best) if turn % 2 else (best, race.challenger)
        found = {settings: measure(settings) for settings in pair}
        seen = found[race.challenger]
        race.seen.append(seen)
        if seen.problem or seen.divergence > max_divergence:
            return False
        race.ratios.append(_ratio(seen, found[best], goal))
        if turn == 0 and race.ratios[0] < 1 - DROPPED:
            return False
    ahead = sum(ratio > 1 for ratio in race.ratios)
    return race.ratio > 1 + MARGIN and 3 * ahead >= 2 * len(race.ratios)


def _settle(measure: _Counted, start: Settings, best: Settings, goal: Goal, races: list[Race]) -> Result:
    """Race the winner against the defaults.

    These are well tried, and the races before had many chances to be lucky: the winner must be clearly ahead by the
    goal, or no slower by the goal and clearly ahead for prompts and answers together.
    """
    seen: dict[Settings, list[Measurement]] = {start: [], best: []}
    for turn in range(TURNS):
        for settings in list(reversed(seen)) if turn % 2 else list(seen):
            seen[settings].append(measure(settings))
    ratios, together = (
        [_ratio(one, other, by) for one, other in zip(seen[best], seen[start], strict=True)]
        for by in (goal, "balanced")
    )
    gain = statistics.median(ratios)
    if not (_clear(ratios) or (gain >= 1 and _clear(together))):
        best, gain = start, 1.0
    return Result(best, gain, _median(seen[start]), _median(seen[best]), races, measure.count, len(measure.different))


def _clear(ratios: Sequence[float]) -> bool:
    """Report whether it is more than noise: ahead in every turn, and by the margin in the median."""
    return min(ratios) > 1 and statistics.median(ratios) >= 1 + MARGIN


def _ratio(one: Measurement, other: Measurement, goal: Goal) -> float:
    """Compare scores; a failure is worse than anything, and no better than another."""
    held, ahead = score(other, goal), score(one, goal)
    return ahead / held if held else OVER_FAILURE if ahead else 1.0


def _median(seen: Sequence[Measurement]) -> Measurement:
    """Combine measurements of the same settings."""
    good = [found for found in seen if not found.problem]
    if not good:
        return seen[-1]
    return Measurement(
        statistics.median(found.prefill for found in good),
        statistics.median(found.decode for found in good),
        max(found.divergence for found in good),
        statistics.median(found.drafting for found in good),
        max(found.memory for found in good),
    )
