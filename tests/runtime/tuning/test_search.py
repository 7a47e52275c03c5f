"""The search, on simulated machines whose fastest settings are known from an exhaustive sweep."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from oracles import allocator
from qwen35_gguf.cli import main
from qwen35_gguf.commands.run import tune
from qwen35_gguf.errors import ModelError
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.llama import model as llama_model
from qwen35_gguf.runtime.llama.devices import Device, Offload
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.placement import GPU_RESERVE
from qwen35_gguf.runtime.settings import Settings, from_record
from qwen35_gguf.runtime.tuning import profiles
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
    flash, divergence = r.uniform(0.8, 1.2), r.choice([1e-4, 1e-2])
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


# ---- the command -------------------------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QWEN35_CACHE", str(tmp_path))
    return tmp_path / "profiles"


def test_tune_keeps_a_profile_that_run_uses(files: list[Path], kept: Path) -> None:
    code, out, err = run("tune", files[0], "--budget", "3s", "--goal", "decode", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert Path(found["profile"]).parent == kept
    assert found["tuned"]["decode"] > 0
    assert found["trials"] == len({json.dumps(race["changed"]) + str(race["value"]) for race in found["races"]}) + 1
    arguments = ["run", files[0], "one", "--raw", "-n", 2, "--temp", 0, "--ctx", 256]
    code, _, err = run(*arguments)
    assert code == 0
    assert "tuned for decode on 20" in err
    assert "tuned for" not in run(*arguments, "--no-profile")[2]
    with Qwen35(files[0], n_ctx=256) as model:
        assert model.tuned is not None
        assert model.tuned.settings == from_record(found["settings"])
    with Qwen35(files[0], n_ctx=256, profile=False) as model:
        assert model.tuned is None


def test_tune_can_tell_what_it_would_do(files: list[Path], kept: Path) -> None:
    code, out, _ = run("tune", files[0], "--dry-run")
    assert code == 0
    assert "n_batch: 128, 256, 512, 1024, 2048" in out
    assert "kv_type: f16, q8_0, q4_0" in out
    assert "gpu_layers" not in out
    assert not kept.exists()


def test_what_it_would_do_with_devices(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "find", lambda *_: [Device("CUDA0", 1 << 40), Device("CUDA1", 1 << 40)])
    code, out, _ = run("tune", files[0], "--dry-run")
    assert code == 0
    assert "split: planned, 1:0, 0:1, 1:1\ngpu_layers: auto, 0, 6\n" in out
    assert re.search(r"gpu_layers: 0, 1, 2, 3, 4, (5, )?(auto, 6|6, auto|auto, 5, 6)\n", out)
    assert re.search(r"host_feed_forward: 0, 1, 3\n", out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "soon"], "'soon' is not a duration"),
        (["--budget", "-5s"], "'-5s' is not a duration"),
        (["--budget", "3years"], "is not a duration"),
        (["--goal", "fun"], "'fun' is not one of"),
        (["--device", "CUDA7"], "device 'CUDA7': is not available"),
        (["--max-divergence", "-1"], "-1.0 is not in the range"),
    ],
)
def test_mistakes_are_one_line(files: list[Path], kept: Path, arguments: list[str], words: str) -> None:
    code, _, err = run("tune", files[0], *arguments)
    assert code == 2
    assert words in err.splitlines()[-1]
    assert not kept.exists()


def test_a_profile_is_found_again_and_a_broken_one_is_passed_over(
    files: list[Path], kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert profiles.load(files[0]) is None
    profile = profiles.Profile(Settings(1, 2, n_batch=256, kv_type="q8_0", draft=False), "prefill", 1.2, "2026-11-24")
    path = profiles.save(profile, files[0])
    assert path.parent == kept
    assert profiles.load(files[0]) == profile
    assert profiles.load(files[0], [Device("CUDA0", 1)]) is None
    record = json.loads(path.read_text())
    damaged = [
        "",
        "{",
        "[]",
        "null",
        json.dumps(record | {"format": 99}),
        json.dumps(record | {"format": 1, "settings": record["settings"] | {"gpu_layers": 0}}),  # an earlier version's
        json.dumps(record | {"model": "another"}),
        json.dumps(record | {"goal": "fun"}),
        *(
            json.dumps(record | {"settings": record["settings"] | change})
            for change in (
                {"threads": 0}, {"threads": "2"}, {"threads": True}, {"n_batch": 1 << 40}, {"kv_type": "q9"},
                {"repack": 1}, {"gpu_layers": -5}, {"unknown": 1}, {"threads": 10**9}, {"gpu_layers": "all"},
                {"gpu_layers": 3}, {"gpu_layers": None}, {"split": [1]}, {"split": "1"}, {"split": None},
            )
        ),
    ]  # fmt: skip
    for text in damaged:
        caplog.clear()
        path.write_text(text)
        assert profiles.load(files[0]) is None, text
        assert [message.count("\n") for message in caplog.messages] == [0], text
        assert "profile ignored" in caplog.text
    path.write_bytes(b"\xff\xfe")
    assert profiles.load(files[0]) is None
    with Qwen35(files[0], n_ctx=256) as model:  # loads all the same
        assert model.tuned is None


def test_arguments_are_stronger_than_the_profile(files: list[Path], kept: Path) -> None:
    profiles.save(profiles.Profile(Settings(2, 2, n_batch=128, draft=False), "decode", 1.1, "2026-11-24"), files[0])
    with Qwen35(files[0], n_ctx=256) as model:
        assert model._loaded.plan.settings.n_batch == 128
        assert model.generate("one two", max_tokens=4).timings.drafted == 0
    with Qwen35(files[0], n_ctx=256, n_batch=64, draft=2, n_threads=1) as model:
        plan = model._loaded.plan
        assert (plan.settings.n_batch, plan.draft, plan.settings.threads) == (64, 2, 1)
    assert kept.is_dir()


TWO = [Device("CUDA0", 1 << 30), Device("RPC0", 1 << 30, endpoint="a:1")]


def test_a_profile_belongs_to_its_devices(files: list[Path], kept: Path) -> None:
    settings = Settings(1, 2, gpu_layers=4, host_feed_forward=1, split=(3, 1))
    profile = profiles.Profile(settings, "prefill", 1.2, "2026-11-24")
    path = profiles.save(profile, files[0], TWO)
    assert path.parent == kept
    assert profiles.load(files[0], TWO) == profile
    assert profiles.load(files[0], [TWO[0], replace(TWO[1], name="RPC7", free=5)]) == profile  # numbered as they come
    for others in ([], TWO[:1], TWO[1:], TWO[::-1], [TWO[0], replace(TWO[1], endpoint="b:1")]):
        assert profiles.load(files[0], others) is None


@pytest.mark.parametrize("split", [[1], [0, 0], [1, -1], [1, True], [1, 2, 3], [1, 0.5], {"0": 1, "1": 1}])
def test_a_split_that_is_none(files: list[Path], kept: Path, caplog: pytest.LogCaptureFixture, split: Any) -> None:
    path = profiles.save(profiles.Profile(Settings(1, 1), "decode", 1.0, "2026-11-24"), files[0], TWO)
    record = json.loads(path.read_text())
    assert kept.is_dir()
    path.write_text(json.dumps(record | {"settings": record["settings"] | {"split": split}}))
    assert profiles.load(files[0], TWO) is None
    assert [message.count("\n") for message in caplog.messages] == [0]


class PlacedError(Exception):
    """Raised with the placement, instead of loading."""


@pytest.fixture
def placement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Offload]:
    """Where the layers of a 0.8B would go with two devices, each of which holds all."""
    file = allocator.sparse_model(tmp_path / "0.8b.gguf", "0.8b")
    devices = [replace(device, free=4 << 30) for device in TWO]

    def stop(model: Qwen35) -> None:
        raise PlacedError(model.offload)

    def place(settings: Settings | None = None, **options: Any) -> Offload:
        if settings:
            profiles.save(profiles.Profile(settings, "decode", 1.2, "2026-11-24"), file, devices)
        with pytest.raises(PlacedError) as caught:
            Qwen35(file, n_ctx=256, draft=0, **options)
        return caught.value.args[0]

    monkeypatch.setattr(Qwen35, "_load", stop)
    monkeypatch.setattr(offload, "find", lambda *_: devices)
    return place


def names(placed: Offload) -> list[str]:
    return [device.name for device in placed.devices]


def test_arguments_are_stronger_than_the_placement_of_a_profile(kept: Path, placement: Callable[..., Offload]) -> None:
    planned = placement()
    assert (names(planned), planned.n_gpu_layers) == (["CUDA0"], offload.ALL)
    tuned = placement(Settings(1, 1, gpu_layers=4, host_feed_forward=1, split=(3, 1)))
    assert (names(tuned), tuned.n_gpu_layers, tuned.tensor_split) == (["CUDA0", "RPC0"], 4, (3.0, 1.0))
    assert [device for _, device in tuned.overrides] == ["CPU"]
    assert str(tuned) == "4 layers on CUDA0, RPC0 (a:1) (3:1), 1 overrides"
    assert placement(profile=False) == placement(n_gpu_layers="auto") == planned
    assert placement(n_gpu_layers=2) == Offload(tuned.devices, 2)
    assert placement(n_gpu_layers=0) == Offload()
    assert placement(Settings(1, 1, gpu_layers=0)) == Offload()
    assert kept.is_dir()


def test_what_places_alike_is_equal(kept: Path, placement: Callable[..., Offload]) -> None:
    """So that it is measured once."""
    everything = placement(Settings(1, 1))
    assert placement(Settings(1, 1, split=(1, 0))) == everything
    assert placement(Settings(1, 1, gpu_layers=26, split=(1, 0))) == everything
    assert placement(Settings(1, 1, host_feed_forward=3)) == everything
    second = placement(Settings(1, 1, split=(0, 1)))
    assert names(second) == ["RPC0"]
    assert placement(Settings(1, 1, gpu_layers=26, split=(0, 1))) == second
    shared = placement(Settings(1, 1, split=(1, 1)))
    assert (names(shared), shared.n_gpu_layers, shared.tensor_split) == (["CUDA0", "RPC0"], offload.ALL, (1.0, 1.0))
    assert kept.is_dir()


def test_a_placement_that_does_not_fit_any_more_gives_way_to_a_plan(
    files: list[Path], kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a longer context than that of the trials; the device is too small for a plan to use it."""
    device = Device("CUDA0", GPU_RESERVE)
    profile = profiles.Profile(Settings(1, 1, gpu_layers=3, draft=False), "decode", 1.2, "2026-11-24")
    profiles.save(profile, files[0], [device])

    def refuse(placed: Offload) -> tuple[dict[str, Any], list[Any]]:
        if placed.devices:
            raise ModelError("context: cannot be made")
        return {}, []

    monkeypatch.setattr(offload, "find", lambda *_: [device])
    monkeypatch.setattr(llama_model, "offload_fields", refuse)
    with Qwen35(files[0], n_ctx=256) as model:
        assert model.tuned == profile
        assert model.offload == Offload()
    assert [message.count("\n") for message in caplog.messages] == [0]
    assert "layers are placed as planned" in caplog.text
    with pytest.raises(ModelError):
        Qwen35(files[0], n_ctx=256, n_gpu_layers=3)
    assert kept.is_dir()


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
