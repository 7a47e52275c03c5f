"""What a publisher wrote is never lost: foreign files, edited cards, changed files; and releases that are extended."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from oracles.paths import TINY
from qwen35_gguf import atomic_file
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.release import package
from qwen35_gguf.release import state as states

STEM = "Tiny-Qwen3.5-6.4M"
MAKE = ("--quants", "Q4_0", "--no-measure", "--license", "mit")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def outside(card: str) -> str:
    """What of a card is not between marks."""
    return re.sub(r"<!-- begin .*?<!-- end [a-z]+ -->", "", card, flags=re.DOTALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "release"
    result = run("package", TINY, "-o", folder, *MAKE)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def release(made: Path, tmp_path: Path) -> Path:
    """A finished release that may be changed."""
    return shutil.copytree(made, tmp_path / "release")


@pytest.fixture(autouse=True)
def _no_text_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "measure", lambda *_, **__: None)


# ---- a folder that the command did not make ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["README.md", f"{STEM}-Q4_0.gguf", f"mmproj-{STEM}-BF16.gguf", "Modelfile", "recipe.json", "SHA256SUMS",
     "imatrix.gguf", "size-quality.svg", "notes.txt", f"{STEM}-Q4_0-00001-of-00002.gguf"],
)  # fmt: skip
@pytest.mark.parametrize("linked", [False, True])
def test_foreign_files_are_refused_before_any_work(
    name: str, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    target = tmp_path / "elsewhere" if linked else folder / name
    target.write_text("mine\n")
    if linked:
        (folder / name).symlink_to(target)
    monkeypatch.setattr(package, "plan_release", lambda *_: pytest.fail("work began"))
    result = run("package", TINY, "-o", folder, *MAKE)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"has {name}, which " in result.stderr
    assert "choose an empty folder" in result.stderr
    assert [path.name for path in folder.iterdir()] == [name]
    assert target.read_text() == "mine\n"


def test_with_force_names_of_the_release_are_replaced_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.md").write_text("mine\n")
    (folder / "Modelfile").write_text("mine\n")
    (folder / "notes.txt").write_text("mine\n")
    result = run("package", TINY, "-o", folder, *MAKE, "--force")
    assert (result.exit_code, "has notes.txt, which does not belong there" in result.stderr) == (2, True)
    assert (folder / "README.md").read_text() == "mine\n"
    (folder / "notes.txt").unlink()
    assert run("package", TINY, "-o", folder, *MAKE, "--force").exit_code == 0
    assert "mine" not in (folder / "Modelfile").read_text()


def test_what_is_hidden_or_incomplete_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / ".git").mkdir(parents=True)
    (folder / ".gitattributes").write_text("*.gguf filter=lfs\n")
    assert run("package", TINY, "-o", folder, *MAKE).exit_code == 0
    assert (folder / ".gitattributes").read_text() == "*.gguf filter=lfs\n"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine\n")
    result = run("package", TINY, "-o", tmp_path / "file", *MAKE)
    assert (result.exit_code, "is a file; choose a folder" in result.stderr) == (2, True)
    assert (tmp_path / "file").read_text() == "mine\n"


def test_after_an_error_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(package, "write_files", stop)
    assert run("package", TINY, "-o", tmp_path / "release", *MAKE).exit_code == 130
    assert list((tmp_path / "release").iterdir()) == []


def test_files_without_a_checksum_are_remains_of_an_interrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the files appeared and before their checksums were taken."""
    folder = tmp_path / "release"
    real = package.write_files

    def killed(*_: object, **__: object) -> None:
        hf_to_gguf.convert(TINY, "Q4_0", folder, mmproj_type="BF16")
        raise KeyboardInterrupt

    monkeypatch.setattr(package, "write_files", killed)
    assert run("package", TINY, "-o", folder, *MAKE).exit_code == 130
    assert list(folder.glob("*.gguf"))
    monkeypatch.setattr(package, "write_files", real)
    assert run("package", TINY, "-o", folder, *MAKE).exit_code == 0
    assert run("verify-release", folder, "--against", TINY).exit_code == 0


# ---- files that were changed -------------------------------------------------------------------------------------


def test_a_changed_model_is_refused_and_a_damaged_one_is_made_again(release: Path) -> None:
    file = release / f"{STEM}-Q4_0.gguf"
    original = file.read_bytes()
    assert run("metadata", file, "set", "general.name", "My model").exit_code == 0
    changed = file.read_bytes()
    result = run("package", TINY, "-o", release, *MAKE)
    assert (result.exit_code, "was changed since it was made" in result.stderr) == (2, True), result.stderr
    assert file.read_bytes() == changed
    assert run("package", TINY, "-o", release, *MAKE, "--force").exit_code == 0
    assert file.read_bytes() == original
    file.write_bytes(original[:100_000])
    assert run("package", TINY, "-o", release, *MAKE).exit_code == 0
    assert file.read_bytes() == original


@pytest.mark.parametrize("name", ["Modelfile"])
def test_an_edited_text_stays(release: Path, name: str) -> None:
    with (release / name).open("a") as file:
        file.write('SYSTEM "Be kind."\n')
    before = (release / name).read_bytes()
    result = run("package", TINY, "-o", release, *MAKE)
    assert (result.exit_code, f"note: {name} was edited and stays" in result.stderr) == (0, True), result.output
    assert (release / name).read_bytes() == before
    assert run("checksum", release).exit_code == 0
    assert run("package", TINY, "-o", release, *MAKE, "--force").exit_code == 0
    assert b"Be kind" not in (release / name).read_bytes()


def test_a_foreign_file_in_an_own_folder_is_refused(release: Path) -> None:
    for name, message in (
        (f"{STEM}-Q4_0-00001-of-00002.gguf", None),
        ("letters.txt", "does not belong there"),
        ("imatrix.gguf", "did not make"),
    ):
        (release / name).write_text("mine\n")
        result = run("package", TINY, "-o", release, *MAKE)
        if message:
            assert (result.exit_code, message in result.stderr) == (2, True), result.output
            assert (release / name).read_text() == "mine\n"
        (release / name).unlink(missing_ok=True)
    (release / "recipe.json").write_text('{"mine": 1}')
    state = json.loads((release / states.STATE).read_text())
    state["written"].pop("recipe.json")
    (release / states.STATE).write_text(json.dumps(state))
    assert run("package", TINY, "-o", release, *MAKE).exit_code == 2


def test_the_importance_matrix_may_be_in_the_folder_already(tmp_path: Path) -> None:
    (exact,) = hf_to_gguf.convert(TINY, "BF16", tmp_path, vision=False)
    folder = tmp_path / "release"
    folder.mkdir()
    matrix = folder / "imatrix.gguf"
    (tmp_path / "a.txt").write_text((TINY / "calibration.txt").read_text(encoding="utf-8")[:4000], encoding="utf-8")
    arguments = ["imatrix", exact, "-o", matrix, "-f", tmp_path / "a.txt", "--chunk", 64, "--chunks", 2]
    assert run(*arguments).exit_code == 0
    before = matrix.read_bytes()
    assert run("package", TINY, "-o", folder, *MAKE, "--imatrix", matrix).exit_code == 0
    assert matrix.read_bytes() == before
    assert run("verify-release", folder, "--against", TINY).exit_code == 0


# ---- the card ----------------------------------------------------------------------------------------------------


def test_an_edited_card_is_kept_around_its_parts(release: Path) -> None:
    card = release / "README.md"
    text = card.read_text()
    text = text.replace("license: mit\n", "license: other  # see LICENSE\nlicense_name: my-license\n")
    text = text.replace("- quantized\n", "- quantized\n- mine\n").replace(f"# {STEM}", "# My release")
    text = text.replace("## How to run it", "Thanks to everyone.\n\n## How to run it") + "\n## License\n\nMine.\n"
    card.write_text(text)
    result = run("package", TINY, "-o", release, "--add", "Q8_0", "--no-measure")
    assert result.exit_code == 0, result.output
    assert "README.md was edited" in result.stderr
    new = card.read_text()
    assert f"| {STEM}-Q8_0.gguf | Q8_0 |" in new
    assert outside(new) == outside(text)
    front = yaml.safe_load(new.split("---")[1])
    assert (front["license"], front["license_name"], front["tags"][-1]) == ("other", "my-license", "mine")
    assert front["pipeline_tag"] == "image-text-to-text"
    assert new.index("Thanks to everyone") < new.index("## How to run it") < new.index("## License")
    assert run("checksum", release).exit_code == 0


@pytest.mark.parametrize(
    ("edit", "kept"),
    [
        (lambda _: "# Mine alone\n", True),
        (lambda text: text.split("---\n", 2)[2], False),  # without front matter
        (lambda text: text.replace("pipeline_tag: image-text-to-text\n", ""), False),
        (lambda text: text.replace("\n", "\r\n"), False),
        (lambda text: text.split("<!-- begin run")[0], False),  # half of it
    ],
)
def test_whatever_was_removed_stays_removed(release: Path, edit: Callable[[str], str], kept: bool) -> None:
    card = release / "README.md"
    card.write_bytes(edit(card.read_text()).encode())
    before = card.read_text()
    assert run("package", TINY, "-o", release, "--add", "Q8_0", "--no-measure").exit_code == 0
    assert (f"| {STEM}-Q8_0.gguf |" in card.read_text()) != kept
    assert outside(card.read_text()) == outside(before)
    assert card.read_text().startswith("---\n") == before.startswith("---\n")


def test_an_edit_between_the_marks_is_refused_and_not_lost(release: Path) -> None:
    card = release / "README.md"
    card.write_text(card.read_text().replace("without images.", "without images. I measured it."))
    before = contents(release)
    result = run("package", TINY, "-o", release, "--add", "Q8_0", "--no-measure")
    assert (result.exit_code, "the part 'files' was edited between its marks" in result.stderr) == (2, True)
    assert contents(release) == before
    assert run("package", TINY, "-o", release, "--add", "Q8_0", "--no-measure", "--force").exit_code == 0
    assert "I measured it" not in card.read_text()


def test_a_card_that_is_not_text_is_refused(release: Path) -> None:
    (release / "README.md").write_bytes(b"\xff\xfe")
    result = run("package", TINY, "-o", release, *MAKE)
    assert (result.exit_code, "cannot be read as text" in result.stderr) == (2, True)


def test_a_full_disk_loses_nothing(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it happens: while a model, the card or the list of checksums is written."""
    before = contents(release)
    real, left = os.fsync, [0]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    for written in range(12):
        left[0] = written
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            result = run("package", TINY, "-o", release, "--add", "Q8_0", "--no-measure")
        if result.exit_code == 0:
            break
        assert result.exit_code == 2
        assert "disk full" in result.stderr.splitlines()[-1]
        now = contents(release)
        assert all(now[name] for name in before)
        assert now[f"{STEM}-Q4_0.gguf"] == before[f"{STEM}-Q4_0.gguf"]
        assert not list(release.glob("*.part"))
    assert run("package", TINY, "-o", release, "--add", "Q6_K", "--no-measure").exit_code == 0
    assert run("checksum", release).exit_code == 0


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(package, "plan_release", lambda *_: pytest.fail("work began"))
    monkeypatch.setattr(atomic_file.tempfile, "TemporaryFile", denied)
    result = run("package", TINY, "-o", tmp_path / "release", *MAKE)
    assert (result.exit_code, "cannot be written (Permission denied)" in result.stderr) == (2, True)


# ---- more quants -------------------------------------------------------------------------------------------------


def test_a_release_is_extended(release: Path, tmp_path: Path) -> None:
    before = contents(release)
    times = {path: path.stat().st_mtime_ns for path in release.glob("*.gguf")}
    result = run("package", TINY, "-o", release, "--add", "q8_0,Q6_K", "--no-measure")
    assert result.exit_code == 0, result.output
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())
    card = (release / "README.md").read_text()
    rows = [line.split("|")[2].strip() for line in card.splitlines() if line.startswith(f"| {STEM}")]
    assert rows == ["Q4_0", "Q6_K", "Q8_0"]  # by size
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert run("verify-release", release, "--against", TINY).exit_code == 0
    whole = tmp_path / "whole"
    assert run("package", TINY, "-o", whole, "--quants", "Q4_0,Q8_0,Q6_K", *MAKE[2:]).exit_code == 0
    for name in ("SHA256SUMS", "README.md", "recipe.json", "Modelfile"):
        assert (whole / name).read_bytes() == (release / name).read_bytes(), name
    assert before["README.md"] != card.encode()


def test_a_download_is_extended(release: Path) -> None:
    (release / states.STATE).unlink()
    result = run("package", TINY, "-o", release, *MAKE)
    assert (result.exit_code, "did not make" in result.stderr) == (2, True)
    assert run("package", TINY, "-o", release, "--add", "Q8_0", "--no-measure").exit_code == 0
    assert run("verify-release", release, "--against", TINY).exit_code == 0
    assert f"| {STEM}-Q8_0.gguf |" in (release / "README.md").read_text()


def test_what_cannot_be_extended(release: Path, tmp_path: Path) -> None:
    other = shutil.copytree(TINY, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config, indent=7))
    renamed = shutil.copytree(TINY, tmp_path / "renamed")
    damaged = shutil.copytree(release, tmp_path / "damaged")
    (damaged / states.STATE).unlink()
    next(damaged.glob("mmproj*")).unlink()
    before = contents(release)
    for folder, arguments, message in (
        (release, (TINY, "--add", "Q4_0"), "has Q4_0 already"),
        (release, (TINY, "--add", ","), "--add: is empty"),
        (release, (TINY, "--add", "Q9"), "Q9"),
        (release, (TINY, "--add", "Q8_0,Q8_0"), "Q8_0 is named twice"),
        (release, (TINY, "--add", "Q8_0", "--quants", "Q6_K"), "--quants has no effect with --add"),
        (release, (TINY, "--add", "Q8_0", "--mtp-files"), "--mtp-files has no effect with --add"),
        (release, (other, "--add", "Q8_0"), "from other weights"),
        (release, (renamed, "--add", "Q8_0"), "former name"),
        (release, (next(release.glob("*Q4_0.gguf")), "--add", "Q8_0"), "give that checkpoint"),
        (tmp_path / "none", (TINY, "--add", "Q8_0"), "has no recipe.json"),
        (damaged, (TINY, "--add", "Q8_0"), "is missing"),
    ):
        result = run("package", *arguments, "-o", folder, "--no-measure")
        assert (result.exit_code, message in result.stderr) == (2, True), (message, result.stderr)
    assert contents(release) == before


def test_an_interrupted_extension_resumes(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    arguments = ("package", TINY, "-o", release, "--add", "Q8_0", "--no-measure")
    with monkeypatch.context() as patch:
        patch.setattr(package, "describe", stop)
        assert run(*arguments).exit_code == 130
    done = (release / f"{STEM}-Q8_0.gguf").stat().st_mtime_ns
    assert run(*arguments).exit_code == 0
    assert (release / f"{STEM}-Q8_0.gguf").stat().st_mtime_ns == done
    assert run("verify-release", release, "--against", TINY).exit_code == 0


def test_foreign_files_are_mentioned_when_a_release_is_verified(release: Path) -> None:
    (release / "images").mkdir()
    (release / "images" / "cat.png").write_bytes(b"x")
    (release / "LICENSE").write_text("mine")
    result = run("verify-release", release, "--against", TINY)
    assert result.exit_code == 0, result.output
    for name in ("images/cat.png", "LICENSE"):
        assert f"{name}: is not part of the release" in result.stderr


# ---- lists of checksums ------------------------------------------------------------------------------------------


def test_an_existing_list_of_checksums_is_refused(release: Path) -> None:
    before = (release / "SHA256SUMS").read_bytes()
    (release / "new.txt").write_text("new")
    result = run("checksum", release, "--write")
    assert (result.exit_code, "exists already; use --force to replace it" in result.stderr) == (2, True)
    assert (release / "SHA256SUMS").read_bytes() == before
    assert run("checksum", release, "--write", "--force").exit_code == 0
    assert (release / "SHA256SUMS").read_bytes() != before
