"""An MTP head in a file of its own drafts as in the whole file; without one n-grams draft alone; others are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from oracles.hub.downloads import own_cache, point_to, serve_downloads, unreachable
from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.errors import MessageError, ModelError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release import package
from qwen35_gguf.release.package import PackageOptions
from qwen35_gguf.release.plan import FromCheckpoint
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.loading import planned_bytes
from qwen35_gguf.runtime.mtp_files import check_head, find_head
from qwen35_gguf.runtime.options import LoadOptions

MESSAGES = [{"role": "user", "content": "Tell me a story about a cat."}]
REPEATED = "The cat sat on the mat. The dog sat on the log. " * 4
LOADING = {"n_ctx": 1024, "n_threads": 1, "profile": False}
EVERYTHING = 1 << 40


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model with its head, without it, and the head alone."""
    folder = tmp_path_factory.mktemp("heads") / "release"
    quants = FromCheckpoint(str(TINY), ("Q8_0",), mmproj_types=("BF16",), mtp_files=True, nomtp_files=True)
    package.package(quants, folder, PackageOptions(measure=False))
    return folder


def named(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def whole(folder: Path) -> Path:
    return next(path for path in folder.glob("Tiny*.gguf") if "nomtp" not in path.name)


@pytest.fixture(scope="module")
def alone(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model without its head, in a folder where there is none."""
    return Path(shutil.copy(named(release, "*-nomtp-*"), tmp_path_factory.mktemp("alone")))


def test_the_head_beside_a_model_without_one_is_found(release: Path, alone: Path) -> None:
    assert find_head(read_header(named(release, "*-nomtp-*"))) == named(release, "mtp-*")
    assert find_head(read_header(alone)) is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_it_drafts_as_in_the_whole_file(release: Path, temperature: float) -> None:
    found = []
    for file in (whole(release), named(release, "*-nomtp-*")):
        with Qwen35(file, draft=2, **LOADING) as model:  # type: ignore[arg-type]
            answer = model.chat(MESSAGES, temperature=temperature, seed=3, max_tokens=60, thinking=False)
            found.append((answer.text, answer.timings.drafted, answer.timings.accepted))
    assert found[0] == found[1]
    assert found[0][2] > 10


@pytest.mark.parametrize("draft", [3, "auto"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_without_a_head_ngrams_draft_and_change_nothing(alone: Path, draft: int | str, temperature: float) -> None:
    texts, accepted = [], 0
    for depth in (0, draft):
        with Qwen35(alone, draft=depth, **LOADING) as model:  # type: ignore[arg-type]
            answer = model.generate(REPEATED, temperature=temperature, seed=3, max_tokens=80)
            texts.append(answer.text)
            accepted = answer.timings.accepted
    assert texts[0] == texts[1]
    assert accepted or draft == "auto"  # which may find that none pays


def test_memory_counts_what_the_file_of_the_head_adds(release: Path, alone: Path) -> None:
    head = named(release, "mtp-*")
    options = {"check_memory": True, **LOADING}
    without, beside, both = (
        planned_bytes(LoadOptions(path=path, mtp=mtp, **options), EVERYTHING)  # type: ignore[arg-type]
        for path, mtp in ((alone, None), (alone, head), (whole(release), None))
    )
    shared = sum(one.nbytes for one in read_header(head).tensors if not one.name.startswith("blk."))
    assert without < both
    assert beside == pytest.approx(both + shared, abs=1 << 20)


def test_what_is_no_head_of_this_model_is_refused(release: Path, alone: Path, files: list[Path]) -> None:
    model = read_header(alone)
    with pytest.raises(ModelError, match="is not an MTP head alone; name an mtp"):
        check_head(whole(release), model)
    with pytest.raises(ModelError, match="is not an MTP head alone"):
        check_head(named(release, "mmproj-*"), model)
    with pytest.raises(ModelError, match=r"is an MTP head with a vocabulary of 8192, not 2048; name the head of this"):
        check_head(named(release, "mtp-*"), read_header(files[0]))
    with pytest.raises(ModelError, match="none.gguf"):
        check_head(release / "none.gguf", model)
    with pytest.raises(MessageError, match="has an MTP head of its own; leave it out"):
        Qwen35(whole(release), mtp=named(release, "mtp-*"))


def test_a_head_alone_is_no_model(release: Path) -> None:
    head = named(release, "mtp-*")
    for command in ("run", "plan"):
        result = CliRunner().invoke(main, [command, str(head), *(["hello"] if command == "run" else [])])
        assert result.exit_code == 2
        assert f"{head}: is an MTP head alone; name its model" in result.stderr


def test_deterministic_answers_know_no_others(alone: Path) -> None:
    with pytest.raises(MessageError, match="has no MTP head, and n-grams know other answers; use 0"):
        Qwen35(alone, draft=2, deterministic=True)
    with Qwen35(alone, deterministic=True, **LOADING) as model:  # type: ignore[arg-type]
        assert model.generate(REPEATED, max_tokens=20, temperature=0).timings.drafted == 0


def test_a_head_on_the_hub_comes_with_its_model(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache(monkeypatch, str(tmp_path))
    data = {path.name: path.read_bytes() for path in (named(release, "*-nomtp-*"), named(release, "mtp-*"))}
    with Qwen35(whole(release), draft=2, **LOADING) as model:  # type: ignore[arg-type]
        expected = model.chat(MESSAGES, temperature=0, max_tokens=30, thinking=False).timings
    with serve_downloads({"org/heads": {**data, "mtp-other-Q8_0.gguf": b"not a GGUF file"}}) as server:
        point_to(monkeypatch, server.address)
        planned = CliRunner().invoke(main, ["plan", "org/heads", "--json"])
        assert planned.exit_code == 0, planned.output
        assert not list((tmp_path / "cache").rglob("*.gguf"))
        with Qwen35("org/heads", draft=0, **LOADING):  # type: ignore[arg-type]
            assert not list((tmp_path / "cache").rglob("mtp-*.gguf"))
        with Qwen35("org/heads:Q8_0", draft=2, **LOADING) as model:  # type: ignore[arg-type]
            timings = model.chat(MESSAGES, temperature=0, max_tokens=30, thinking=False).timings
            assert (timings.drafted, timings.accepted) == (expected.drafted, expected.accepted)
        assert [path.name for path in (tmp_path / "cache").rglob("mtp-*.gguf")] == [named(release, "mtp-*").name]
    with unreachable() as address:
        point_to(monkeypatch, address)
        with Qwen35("org/heads:Q8_0", draft=2, **LOADING) as model:  # type: ignore[arg-type]
            timings = model.chat(MESSAGES, temperature=0, max_tokens=30, thinking=False).timings
            assert (timings.drafted, timings.accepted) == (expected.drafted, expected.accepted)
