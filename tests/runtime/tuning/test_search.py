"""The search, on simulated machines whose fastest settings are known from an exhaustive sweep."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from qwen35_gguf.commands.run import tune
from qwen35_gguf.runtime.settings import Settings, from_record
from qwen35_gguf.runtime.tuning.search import GOALS, Coordinate, Goal, Measurement, Race, coordinates, score, search

GRID = [
    Coordinate("threads", (1, 2, 4, 8), ordered=True, goal="decode"),
    Coordinate("threads_batch", (1, 2, 4, 8), ordered=True, goal="prefill"),
    Coordinate("repack", (False, True)),
    Coordinate("n_batch", (128, 256, 512, 1024), ordered=True, goal="prefill"),
    Coordinate("flash_attention", (True, False)),
    Coordinate("kv_type", ("f16", "q8_0", "q4_0"), ordered=True),
]
START = Settings(4, 4)
SWEEP = [
    Settings(**dict(zip([c.name for c in GRID], values, strict=True)))
    for values in itertools.product(*[c.values for c in GRID])
]


def machine(seed: int, noise: float = 0.0) -> Callable[[Settings], Measurement]:
    """A computer with a best number of threads for each phase, and a liking for some of the other settings."""
    r = Random(seed)
    bandwidth, cores, batch = r.choice([1, 2, 4, 8]), r.choice([1, 2, 4, 8]), r.choice([128, 256, 512, 1024])
    repack_prefill, repack_decode = r.uniform(0.6, 1.3), r.uniform(0.8, 1.2)
    flash, divergence = r.uniform(0.8, 1.2), r.choice([2e-5, 1e-2])
    smaller = r.uniform(0.85, 1.2)  # for each step from f16 to q4_0
    shaken = Random(seed + 1)

    def measure(settings: Settings) -> Measurement:
        slow = 1 + abs(shaken.gauss(0, noise))  # interruptions only ever cost time
        prefill = 300 * min(settings.threads_batch, cores) / cores
        prefill /= 1 + 0.1 * max(0, settings.threads_batch - cores)
        prefill /= 1 + 0.2 * abs(settings.n_batch.bit_length() - batch.bit_length())
        decode = 20 * min(settings.threads, bandwidth) / bandwidth / (1 + 0.1 * max(0, settings.threads - bandwidth))
        if settings.repack:
            prefill, decode = prefill * repack_prefill, decode * repack_decode
        if settings.flash_attention:
            prefill, decode = prefill * flash, decode * flash
        steps = ("f16", "q8_0", "q4_0").index(settings.kv_type)
        prefill, decode = prefill * smaller**steps, decode * smaller**steps
        return Measurement(prefill / slow, decode / slow, divergence * steps)

    return measure


def best_of_sweep(exact: Callable[[Settings], Measurement], goal: Goal) -> float:
    found = [exact(settings) for settings in SWEEP]
    return max(score(one, goal) for one in found if one.divergence <= 1e-3)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("seed", range(25))
def test_the_search_is_near_the_best_of_the_sweep(goal: Goal, seed: int) -> None:
    exact = machine(seed)
    result = search(START, GRID, exact, goal)
    assert score(exact(result.settings), goal) >= 0.95 * best_of_sweep(exact, goal)
    assert score(exact(result.settings), goal) >= score(exact(START), goal)
    assert result.trials <= len(SWEEP) / 10
    assert exact(result.settings).divergence <= 1e-3


@pytest.mark.parametrize("seed", range(25))
def test_a_noisy_machine_does_not_decide(seed: int) -> None:
    exact = machine(seed)
    result = search(START, GRID, machine(seed, noise=0.05), "balanced")
    assert score(exact(result.settings), "balanced") >= 0.9 * best_of_sweep(exact, "balanced")
    assert score(exact(result.settings), "balanced") >= 0.98 * score(exact(START), "balanced")


def test_the_defaults_stay_when_nothing_is_faster() -> None:
    result = search(START, GRID, lambda _: Measurement(100, 10), "balanced")
    assert result.settings == START
    assert result.gain == 1


def test_a_slowing_machine_favours_nobody() -> None:
    """The second of two measurements is always slower, by more than the margin."""
    calls = itertools.count()

    def measure(_: Settings) -> Measurement:
        speed = 0.97 ** next(calls)
        return Measurement(100 * speed, 10 * speed)

    assert search(START, GRID[:3], measure, "decode").settings == START


def test_what_fails_loses_and_is_reported() -> None:
    def measure(settings: Settings) -> Measurement:
        if settings.n_batch > 512:
            return Measurement(problem="ended by signal 9 (out of memory?)")
        return Measurement(100 + settings.n_batch, 10)

    races = []
    result = search(START, GRID, measure, "prefill", on_race=races.append)
    assert result.settings.n_batch == 512
    (failed,) = [race for race in races if race.problem]
    assert (failed.ratio, failed.won, len(failed.seen)) == (0, False, 1)


def test_losers_are_stopped_early() -> None:
    races = []
    search(START, GRID, machine(3), "decode", on_race=races.append)
    assert all(len(race.seen) == 1 for race in races if race.ratio < 0.9)
    assert all(len(race.seen) == 3 for race in races if race.won)


def test_no_race_after_the_deadline() -> None:
    clock = itertools.count()
    result = search(START, GRID, machine(1), "decode", deadline=3, clock=lambda: next(clock))
    assert len(result.races) == 3


def test_a_smaller_type_is_tried_only_if_the_one_before_won() -> None:
    seen: list[str] = []

    def measure(settings: Settings) -> Measurement:
        seen.append(settings.kv_type)
        return Measurement(100, 10) if settings.kv_type == "f16" else Measurement(90, 9)

    search(START, [GRID[-1]], measure, "decode")
    assert set(seen) == {"f16", "q8_0"}


def test_what_stops_to_work_loses_to_what_works() -> None:
    """An RPC server that dies takes the best so far with it, the defaults included."""
    calls = itertools.count()

    def measure(settings: Settings) -> Measurement:
        if settings.gpu_layers == 0:
            return Measurement(50, 5)
        return Measurement(100, 10) if next(calls) < 4 else Measurement(problem="RPC server a:1: is gone")

    listed = [Coordinate("n_batch", (256, 512)), Coordinate("gpu_layers", ("auto", 0))]
    result = search(START, listed, measure, "decode")
    assert result.settings.gpu_layers == 0
    assert (result.best.problem, result.default.problem) == ("", "RPC server a:1: is gone")


def test_when_nothing_works_any_more_the_result_says_so() -> None:
    calls = itertools.count()

    def measure(_: Settings) -> Measurement:
        return Measurement(100, 10) if next(calls) < 4 else Measurement(problem="ended")

    assert search(START, GRID, measure, "decode").best.problem == "ended"


# ---- machines with devices ---------------------------------------------------------------------------------------

LAYERS = 32
FEED_FORWARD = 0.6  # of a layer's time
PLACING = ("split", "gpu_layers", "host_feed_forward", "threads", "threads_batch", "n_batch")
DEFAULTS = Settings(8, 8)


@dataclass(frozen=True)
class Simulated:
    """A device: its speed next to the CPU, and the number of layers that its memory holds."""

    decode: float
    prefill: float
    holds: int = 2 * LAYERS


@dataclass
class Computer:
    """One with devices. Its plans fill them in their order, and leave room for a layer on each."""

    devices: Sequence[Simulated]
    crossing: float = 0.1  # of the time that the host takes for all layers
    planned: bool = True  # plans know that devices are of use
    noise: float = 0.0
    seen: set[Settings] = field(default_factory=set)
    random: Random = field(default_factory=lambda: Random(1))

    def layers(self, settings: Settings) -> tuple[int, ...]:
        """How many each device gets."""
        shares = settings.split or tuple(device.holds for device in self.devices)
        count = settings.gpu_layers
        if count == "auto":
            room = [
                device.holds - 1 if share and self.planned else 0
                for device, share in zip(self.devices, shares, strict=True)
            ]
            if sum(map(bool, settings.split)) < 2:
                return tuple(min(size, max(0, LAYERS - sum(room[:i]))) for i, size in enumerate(room))
            count = min(LAYERS, sum(room))
        ends = [round(count * sum(shares[:i]) / sum(shares)) for i in range(len(shares) + 1)]
        return tuple(end - start for start, end in itertools.pairwise(ends))

    def moved(self, settings: Settings) -> int:
        return 0 if settings.gpu_layers == "auto" else min(sum(self.layers(settings)), settings.host_feed_forward)

    def effect(self, settings: Settings) -> Hashable:
        same = replace(settings, gpu_layers=0, split=(), host_feed_forward=0)
        return same, self.layers(settings), self.moved(settings)

    def rank(self, settings: Settings) -> float:
        return sum(self.layers(settings))

    def measure(self, settings: Settings) -> Measurement:
        self.seen.add(settings)
        layers, moved = self.layers(settings), self.moved(settings)
        placed = list(zip(layers, self.devices, strict=True))
        if any(count > device.holds for count, device in placed):
            return Measurement(problem="cannot be loaded (out of memory)")
        host = LAYERS - sum(layers) + FEED_FORWARD * moved
        remaining = 1 - FEED_FORWARD * moved / max(1, sum(layers))
        crossings = 2 * moved + sum(map(bool, layers)) + (sum(layers) < LAYERS) if sum(layers) else 0
        slow = 1 + abs(self.random.gauss(0, self.noise))
        rates = []
        for phase, full, threads in (("prefill", 400, settings.threads_batch), ("decode", 20, settings.threads)):
            seconds = host * 8 / min(threads, 8)
            if phase == "prefill":
                seconds *= 1 + 0.1 * abs(settings.n_batch.bit_length() - 10)
            seconds += sum(remaining * n / getattr(device, phase) for n, device in placed)
            rates.append(full / (seconds / LAYERS + self.crossing * crossings) / slow)
        return Measurement(*rates)

    def listed(self) -> list[Coordinate]:
        found = coordinates(cores=8, n_ctx=1024, devices=len(self.devices), layers=LAYERS, rank=self.rank)
        return [coordinate for coordinate in found if coordinate.name in PLACING]

    def sweep(self, goal: Goal) -> tuple[float, int]:
        """The best score of all combinations, and how many there are."""
        values = {coordinate.name: coordinate.values for coordinate in self.listed()}
        grid = [DEFAULTS.but("gpu_layers", 0)]
        for name, choices in values.items():
            grid = [settings.but(name, choice) for settings in grid for choice in choices]
        return max(score(self.measure(settings), goal) for settings in grid), len(grid)


FAST, SLOW = Simulated(8, 30), Simulated(0.5, 0.7)
COMPUTERS = {
    "a fast GPU": (Computer([FAST]), lambda computer, best: computer.layers(best) == (LAYERS,)),
    "an integrated GPU": (Computer([SLOW]), lambda _, best: best.gpu_layers == 0),
    "room for part": (Computer([replace(FAST, holds=20)]), lambda _, best: best.gpu_layers == 20),
    "unplanned": (Computer([FAST], planned=False), lambda _, best: best.gpu_layers == LAYERS),
    "the second alone": (Computer([SLOW, FAST]), lambda computer, best: computer.layers(best) == (0, LAYERS)),
    "both": (
        Computer([replace(FAST, holds=17), replace(FAST, holds=18)]),
        lambda computer, best: 0 not in computer.layers(best),
    ),
}


def random_computer(seed: int) -> Computer:
    r = Random(seed)
    devices = [
        Simulated(r.choice([0.4, 0.8, 1.5, 3, 8]), r.choice([0.5, 1, 3, 10, 30]), r.choice([6, 12, 20, 27, 64]))
        for _ in range(r.choice([1, 1, 2]))
    ]
    return Computer(devices, r.choice([0.001, 0.02, 0.1, 0.3]))


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", COMPUTERS)
def test_devices_get_what_is_fastest(goal: Goal, name: str) -> None:
    computer, expected = COMPUTERS[name]
    result = search(DEFAULTS, computer.listed(), computer.measure, goal, effect=computer.effect)
    assert expected(computer, result.settings), result.settings
    best, _ = computer.sweep(goal)
    assert score(computer.measure(result.settings), goal) >= 0.95 * best


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("seed", range(25))
def test_with_devices_the_search_is_near_the_best_of_the_sweep(goal: Goal, seed: int) -> None:
    computer = random_computer(seed)
    result = search(DEFAULTS, computer.listed(), computer.measure, goal, effect=computer.effect)
    assert result.trials == len(set(map(computer.effect, computer.seen)))  # nothing under two names
    best, combinations = computer.sweep(goal)
    assert score(computer.measure(result.settings), goal) >= 0.95 * best
    assert score(computer.measure(result.settings), goal) >= score(computer.measure(DEFAULTS), goal)
    assert result.trials <= 16 < combinations / 10


@pytest.mark.parametrize("seed", range(25))
def test_noise_does_not_decide_about_devices(seed: int) -> None:
    exact = random_computer(seed)
    noisy = replace(exact, noise=0.05)
    result = search(DEFAULTS, noisy.listed(), noisy.measure, "balanced", effect=noisy.effect)
    found = score(exact.measure(result.settings), "balanced")
    assert found >= 0.9 * exact.sweep("balanced")[0]
    assert found >= 0.98 * score(exact.measure(DEFAULTS), "balanced")


def test_neighbours_of_the_plan_are_raced_first() -> None:
    computer = Computer([replace(FAST, holds=19)])
    values = next(c for c in computer.listed() if c.ordered).around(DEFAULTS)
    assert values == (0, 4, 8, 12, 16, "auto", 20, 24, 28, 32)
    alone = Computer([replace(FAST, holds=19), replace(FAST, holds=7)])
    values = next(c for c in alone.listed() if c.ordered).around(replace(DEFAULTS, split=(0, 1)))
    assert values == (0, 4, "auto", 8, 12, 16, 20, 24, 28, 32)
    races: list[Race] = []
    search(DEFAULTS, computer.listed(), computer.measure, "decode", effect=computer.effect, on_race=races.append)
    tried = [race.challenger.gpu_layers for race in races if race.changed == "gpu_layers"]
    assert tried == [0, 32, 16, 20]  # the ends, then to both sides: 18 is planned, and 20 does not fit


def test_what_a_plan_or_the_host_alone_has_moves_no_feed_forward() -> None:
    for devices in ([FAST], [SLOW]):
        computer = Computer(devices)
        races: list[Race] = []
        search(DEFAULTS, computer.listed(), computer.measure, "decode", effect=computer.effect, on_race=races.append)
        assert races
        assert not [race for race in races if race.changed in ("host_feed_forward", "split")]


def test_a_host_that_cannot_hold_the_model_is_not_asked_to() -> None:
    listed = coordinates(cores=2, n_ctx=1024, devices=1, layers=LAYERS, host_fits=False)
    assert all(0 not in coordinate.values for coordinate in listed if coordinate.name == "gpu_layers")


@given(cores=st.integers(1, 256), n_ctx=st.integers(256, 1 << 20), devices=st.integers(0, 2), layers=st.integers(2, 99))
def test_what_is_tried_makes_sense(cores: int, n_ctx: int, devices: int, layers: int) -> None:
    found = coordinates(cores=cores, n_ctx=n_ctx, devices=devices, layers=layers)
    for coordinate in found:
        assert len(set(coordinate.values)) == len(coordinate.values) > 1
        numbers = [value for value in coordinate.values if isinstance(value, int)]
        assert not coordinate.ordered or numbers == sorted(numbers)
    listed = {coordinate.name: coordinate.values for coordinate in found}  # of two of a name, the later
    assert ("gpu_layers" in listed) == bool(devices)
    assert ("split" in listed) == (devices > 1)
    if "n_batch" in listed:
        assert max(listed["n_batch"]) <= n_ctx
    if devices:
        assert {"auto", 0, layers} <= set(listed["gpu_layers"])
    if devices > 1:
        assert all(len(shares) in (0, devices) for shares in listed["split"])


def test_the_chart_shows_where_the_layers_are() -> None:
    computer = random_computer(3)
    result = search(DEFAULTS, computer.listed(), computer.measure, "decode", effect=computer.effect)
    words = {"default": "all layers on the CPU", "tuned": "all layers on CUDA0"}
    console = Console(file=StringIO(), width=100)
    tune.draw(console, result, result.settings, "decode", words)
    drawn = console.file.getvalue()
    assert "default: all layers on the CPU\ntuned: all layers on CUDA0\n" in drawn
    record = json.loads(json.dumps(tune.as_record(result, result.settings, "decode", None, words)))
    assert record["placement"] == words
    assert from_record(record["settings"]) == result.settings
    assert "placement" not in tune.as_record(result, result.settings, "decode", None, {})
