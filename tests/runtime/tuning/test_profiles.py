"""`qwen35 tune` keeps what it finds, and loading uses it: for this model, on this hardware, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from oracles import allocator
from qwen35_gguf.cli import main
from qwen35_gguf.errors import ModelError
from qwen35_gguf.runtime import Qwen35, loading
from qwen35_gguf.runtime.llama import model as llama_model
from qwen35_gguf.runtime.llama.devices import Device, Offload
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.device_reserve import DRIVER_CONTEXT, WORK
from qwen35_gguf.runtime.settings import Settings, from_record
from qwen35_gguf.runtime.tuning import profiles


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
    assert "kv_type: f16, q8_0\n" in out  # as --kv-type auto
    assert "kv_type: f16, q8_0, q4_0\n" in run("tune", files[0], "--dry-run", "--max-divergence", "1e-3")[1]
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

    def stop(plan: loading.LoadPlan) -> None:
        raise PlacedError(plan.offload)

    def place(settings: Settings | None = None, **options: Any) -> Offload:
        if settings:
            profiles.save(profiles.Profile(settings, "decode", 1.2, "2026-11-24"), file, devices)
        with pytest.raises(PlacedError) as caught:
            Qwen35(file, n_ctx=256, draft=0, **options)
        return caught.value.args[0]

    monkeypatch.setattr(loading, "LoadedModel", stop)
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
    device = Device("CUDA0", DRIVER_CONTEXT + WORK)
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
