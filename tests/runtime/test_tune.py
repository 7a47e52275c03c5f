"""The search, on simulated machines whose fastest settings are known from an exhaustive sweep."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.cli import main
from qwen35_gguf.runtime import Qwen35, profiles
from qwen35_gguf.runtime.settings import Settings
from qwen35_gguf.runtime.tune import GOALS, Coordinate, Goal, Measurement, coordinates, score, search

GRID = [
    Coordinate("threads", (1, 2, 4, 8), ordered=True, goal="decode"),
    Coordinate("threads_batch", (1, 2, 4, 8), ordered=True, goal="prefill"),
    Coordinate("repack", (False, True)),
    Coordinate("n_batch", (128, 256, 512, 1024), ordered=True, goal="prefill"),
    Coordinate("flash_attention", (True, False)),
    Coordinate("kv_type", ("f16", "q8_0")),
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
    flash, q8, divergence = r.uniform(0.8, 1.2), r.uniform(0.85, 1.2), r.choice([1e-4, 1e-2])
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
        quantized = settings.kv_type == "q8_0"
        if quantized:
            prefill, decode = prefill * q8, decode * q8
        return Measurement(prefill / slow, decode / slow, divergence if quantized else 0.0)

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


@given(cores=st.integers(1, 256), n_ctx=st.integers(256, 1 << 20), devices=st.integers(0, 2), layers=st.integers(2, 99))
def test_what_is_tried_makes_sense(cores: int, n_ctx: int, devices: int, layers: int) -> None:
    listed = {c.name: c for c in coordinates(cores=cores, n_ctx=n_ctx, devices=devices, layers=layers)}
    assert ("gpu_layers" in listed) == bool(devices)
    for coordinate in listed.values():
        assert len(set(coordinate.values)) == len(coordinate.values) > 1
        assert not coordinate.ordered or list(coordinate.values) == sorted(coordinate.values)
    if "n_batch" in listed:
        assert max(listed["n_batch"].values) <= n_ctx
    if devices:
        assert {0, layers} <= set(listed["gpu_layers"].values)


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
        assert model.tuned.settings == Settings(**found["settings"])
    with Qwen35(files[0], n_ctx=256, profile=False) as model:
        assert model.tuned is None


def test_tune_can_tell_what_it_would_do(files: list[Path], kept: Path) -> None:
    code, out, _ = run("tune", files[0], "--dry-run")
    assert code == 0
    assert "n_batch: 128, 256, 512, 1024, 2048" in out
    assert not kept.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "soon"], "'soon' is not a time"),
        (["--budget", "-5s"], "'-5s' is not a time"),
        (["--budget", "3years"], "is not a time"),
        (["--goal", "fun"], "'fun' is not one of"),
        (["--device", "CUDA7"], "device 'CUDA7': is not there"),
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
    assert profiles.load(files[0], ["CUDA0"]) is None
    record = json.loads(path.read_text())
    damaged = [
        "",
        "{",
        "[]",
        "null",
        json.dumps(record | {"format": 99}),
        json.dumps(record | {"model": "another"}),
        json.dumps(record | {"goal": "fun"}),
        *(
            json.dumps(record | {"settings": record["settings"] | change})
            for change in (
                {"threads": 0}, {"threads": "2"}, {"threads": True}, {"n_batch": 1 << 40}, {"kv_type": "q9"},
                {"repack": 1}, {"gpu_layers": -5}, {"unknown": 1}, {"threads": 10**9},
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
        assert model._n_batch == 128
        assert model.generate("one two", max_tokens=4).timings.drafted == 0
    with Qwen35(files[0], n_ctx=256, n_batch=64, draft=2, n_threads=1) as model:
        assert (model._n_batch, model._draft, model._threads) == (64, 2, 1)
    assert kept.is_dir()
