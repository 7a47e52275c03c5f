"""Commands on models of the Hub, against a server on localhost that stands in for it."""

from __future__ import annotations

import calendar
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from inputs.live_server import LiveServer
from oracles.hub.downloads import DownloadHub, own_cache, point_to, serve_downloads, unreachable
from qwen35_gguf.cli import main
from qwen35_gguf.errors import HubError
from qwen35_gguf.runtime import Qwen35

STORY = [{"role": "user", "content": "Tell me a story"}]
GREEDY = ("--temp", "0", "-n", "6", "--ctx", "512", "--threads", "1")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def answer(*arguments: object) -> str:
    result = run("run", *arguments, "Tell me a story", *GREEDY)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def repositories(originals: Path) -> dict[str, dict[str, bytes]]:
    model, exact, mmproj = ((originals / f"{name}.gguf").read_bytes() for name in ("model", "exact", "mmproj-model"))
    shards = {
        f"shards/tiny-{path.stem.replace('part', 'Q8_0')}.gguf": path.read_bytes() for path in originals.glob("part-*")
    }
    return {
        "org/tiny": {"tiny-Q8_0.gguf": model, "tiny-BF16.gguf": exact, "mmproj-tiny-BF16.gguf": mmproj},
        "org/shards": {**shards, "tiny.mmproj-bf16.gguf": mmproj, "other.mmproj-f16.gguf": b"not a GGUF file"},
        "org/other": {"model-Q8_0.gguf": mmproj},
    }


@pytest.fixture
def hub(
    repositories: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DownloadHub]:
    own_cache(monkeypatch, str(tmp_path))
    with serve_downloads(repositories) as server:
        point_to(monkeypatch, server.address)
        yield server


def test_plan_reads_the_header_and_downloads_nothing(hub: DownloadHub, folder: Path, tmp_path: Path) -> None:
    remote, local = run("plan", "org/tiny:Q8_0", "--json"), run("plan", folder / "model.gguf", "--json")
    assert remote.exit_code == 0, remote.output
    ours, theirs = json.loads(remote.stdout), json.loads(local.stdout)
    assert ours.pop("model") == "tiny-Q8_0.gguf"
    assert theirs.pop("model") == "model.gguf"
    for plan in (ours, theirs):
        del plan["longest"], plan["usage"][0]["capacity"]  # by the memory that is free just then
    assert ours == theirs
    assert hub.sent("tiny-Q8_0.gguf") < (folder / "model.gguf").stat().st_size
    assert not list((tmp_path / "cache").rglob("*.gguf"))


@pytest.mark.usefixtures("hub")
def test_without_a_quant_the_best_that_fits_is_taken() -> None:
    found = run("plan", "org/tiny", "--ram", "1GB")
    assert found.exit_code == 0, found.output
    assert "org/tiny: Q8_0 (7 MB), the best that fits this machine" in found.stderr
    refused = run("plan", "org/tiny", "--ram", "20MB")
    assert refused.exit_code == 2
    assert re.search(r"^Error: org/tiny: none of Q8_0 \(7 MB\) fits: .*\n$", refused.stderr)


@pytest.mark.usefixtures("hub")
def test_lint_reads_the_header(folder: Path) -> None:
    found = run("lint", "hf:org/tiny:Q8_0")
    assert (found.exit_code, found.stdout) == (0, "org/tiny:Q8_0: clean\n")
    assert run("lint", folder / "model.gguf", "--no-values").stdout.endswith("clean\n")


def test_a_model_is_downloaded_once_and_used_offline(
    hub: DownloadHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = answer(folder / "model.gguf")
    assert answer("org/shards:Q8_0") == local
    assert not [path for path in hub.asked if "resolve" in path and "mmproj-bf16" in path and "cdn" not in path][1:]
    hub.ranges.clear()
    assert answer("org/shards") == local
    assert not [path for path in hub.ranges if "Q8_0" in path]
    with unreachable() as address:
        point_to(monkeypatch, address)
        assert answer("org/shards") == local
        lost = run("run", "org/tiny", "Hello")
        assert lost.exit_code == 2
        assert re.search(r"^Error: org/tiny: not in the cache, and http\S+ cannot be reached; .*\n$", lost.stderr)


def test_a_revision_may_be_named(hub: DownloadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with Qwen35("org/tiny@v1:Q8_0", n_ctx=512, n_threads=1, draft=0) as model:
        online = model.chat(STORY, temperature=0, max_tokens=6, thinking=False).text
    assert any("/revision/v1" in path for path in hub.asked)
    refused = run("plan", "org/tiny@v2:Q8_0")
    assert refused.exit_code == 2
    assert "v2" in refused.output
    with unreachable() as address:
        point_to(monkeypatch, address)
        with Qwen35("org/tiny@v1:Q8_0", n_ctx=512, n_threads=1, draft=0) as model:
            assert model.chat(STORY, temperature=0, max_tokens=6, thinking=False).text == online
        with pytest.raises(HubError):
            Qwen35("org/tiny@v2:Q8_0")


def test_an_interrupted_download_resumes(hub: DownloadHub, folder: Path) -> None:
    size = (folder / "model.gguf").stat().st_size
    headers = run("lint", "org/tiny:Q8_0")
    assert headers.exit_code == 0
    hub.ranges.clear()
    hub.breaks = [100_000] * 20
    broken = run("run", "org/tiny:Q8_0", "Hello", *GREEDY)
    assert broken.exit_code == 2
    assert re.search(r"^Error: org/tiny: download failed .*run it again to resume\n$", broken.stderr, re.MULTILINE)
    hub.breaks = []
    answer("org/tiny:Q8_0")
    assert max(start for start, _ in hub.ranges["tiny-Q8_0.gguf"]) > 200_000
    assert hub.sent("tiny-Q8_0.gguf") < size + 3_000_000  # with the headers


@pytest.mark.usefixtures("hub")
def test_a_vision_encoder_of_another_name_is_used(folder: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    assert answer("org/shards:Q8_0", "--image", folder / "red.png") == answer(
        folder / "model.gguf", "--image", folder / "red.png"
    )


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("verb", ["run", "plan", "lint", "serve", "chat"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/tiny:Q2_K", "org/tiny: has no Q2_K; use one of BF16, Q8_0"),
        ("org/gated", "org/gated: gated; accept the licence on "),
        ("org/private:Q8_0", "org/private: no such file here, and no such model on the Hub; check the spelling"),
        ("org/absent", "org/absent: no such file here, and no such model on the Hub; check the spelling"),
        ("org/broken", "org/broken: the Hub answered 418"),
        ("org/a--b", "org/a--b: not a Hub id"),
        ("org/absent.gguf", "org/absent.gguf: No such file or directory"),
    ],
)
def test_what_cannot_be_had_is_one_line(verb: str, name: str, message: str) -> None:
    result = run(verb, name, *(["Hello"] if verb == "run" else []))
    assert result.exit_code == 2
    assert re.search(rf"^Error: {re.escape(message)}.*\n$", result.stderr), result.stderr


@pytest.mark.usefixtures("hub")
def test_a_model_of_another_kind_is_refused() -> None:
    result = run("run", "org/other:Q8_0", "Hello")
    assert result.exit_code == 2
    assert "is a vision encoder (mmproj), not a text model" in result.stderr


@pytest.mark.usefixtures("hub")
def test_a_path_that_exists_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "org").mkdir()
    (folder / "model.gguf").rename(folder / "org" / "tiny")
    monkeypatch.chdir(folder)
    found = run("lint", "org/tiny", "--no-values")
    assert found.stdout == "org/tiny: clean\n"


def test_a_model_of_the_hub_is_served(hub: DownloadHub, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from qwen35_gguf.cli import main; main()", "serve", "org/tiny:Q8_0"]
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
    }
    with subprocess.Popen(
        [*command, "--port", "0", "--ctx", "2k"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.match(r"http://localhost:(\d+): tiny-Q8_0$", line)
            assert found, line
            models = LiveServer(int(found[1])).get("/v1/models").json
            assert [model["id"] for model in models["data"]] == ["tiny-Q8_0"]
        finally:
            process.kill()
    assert {path.name for path in (tmp_path / "cache").rglob("*.gguf")} == {"tiny-Q8_0.gguf", "mmproj-tiny-BF16.gguf"}


@pytest.mark.usefixtures("hub")
def test_models_are_listed_and_removed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (folder / "model.gguf").rename(tmp_path / "models" / "mine-Q8_0.gguf")
    before = time.time()
    answer("org/shards:Q8_0")
    here = ("models", "--folder", tmp_path / "models")
    listed = json.loads(run(*here, "--json").stdout)["models"]
    assert [(one["name"], one["kind"]) for one in listed] == [
        ("org/shards:Q8_0", "model"),
        (str(tmp_path / "models" / "mine-Q8_0.gguf"), "model"),
    ]
    used = calendar.timegm(time.strptime(listed[0]["last_use"], "%Y-%m-%dT%H:%M:%SZ"))
    assert before - 1 <= used <= time.time()
    assert re.search(r"^org/shards:Q8_0 +7\.1 MB +now$", run(*here).stdout, re.MULTILINE)
    assert "give --yes" in run(*here, "rm", "org/shards").stderr
    assert run(*here, "rm", "org/absent", "--yes").exit_code == 2
    assert len(json.loads(run(*here, "--json").stdout)["models"]) == 2
    assert run(*here, "rm", "org/shards", listed[1]["name"], "--yes").exit_code == 0
    assert json.loads(run(*here, "--json").stdout) == {"models": []}
    assert not list(tmp_path.glob("cache/models--*"))
