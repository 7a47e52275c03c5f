"""Folders and files that may only be read: what reads them works, what would write is one line, nothing is changed."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from unprivileged import run_unprivileged

from oracles.paths import TINY
from qwen35_gguf.convert import hf_to_gguf

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gives up the rights of root as on Linux")
SHORT = ("Hi", "-n", "1", "--no-think", "--ctx", "256")
TEXT = ("-f", "{w}/text.txt", "--chunk", "32")
# {r} is a folder that may only be read, with a model; {w} is one with the same model that may be written to.
READING = {
    "inspect": ("inspect", "{r}/m.gguf"),
    "plan": ("plan", "{r}/m.gguf", "--ctx", "1k"),
    "lint": ("lint", "{r}/m.gguf"),
    "checksum": ("checksum", "{r}"),
    "run": ("run", "{r}/m.gguf", *SHORT),
    "run, states": ("run", "{r}/m.gguf", *SHORT, "--state-dir", "{r}"),
    "evaluate": ("evaluate", "{r}/m.gguf", "--reference", "{w}/m.gguf", *TEXT),
    "imatrix": ("imatrix", "{r}/m.gguf", *TEXT, "-o", "{w}/i.gguf"),
}
WRITING = {
    "metadata": ("metadata", "{r}/m.gguf", "set", "general.name", "another, longer name"),
    "metadata in place": ("metadata", "{r}/m.gguf", "set", "general.name", "0000000000000000"),
    "metadata -o": ("metadata", "{w}/m.gguf", "set", "general.name", "x", "-o", "{r}/new.gguf"),
    "split": ("split", "{w}/m.gguf", "-o", "{r}/new", "--max-shard-size", "3MB"),
    "split into it": ("split", "{w}/m.gguf", "-o", "{r}", "--max-shard-size", "3MB"),
    "convert": ("convert", str(TINY), "-q", "Q4_0", "-o", "{r}/new"),
    "convert into it": ("convert", str(TINY), "-q", "Q4_0", "-o", "{r}"),
    "package": ("package", str(TINY), "--quants", "Q4_0", "--no-measure", "-o", "{r}/new"),
    "checksum": ("checksum", "{r}", "--write", "--force"),
    "imatrix": ("imatrix", "{w}/m.gguf", *TEXT, "-o", "{r}/i.gguf"),
    "moments": ("imatrix", "{w}/m.gguf", *TEXT, "--moments", "block", "-o", "{r}/i.gguf"),
    "sensitivity": ("sensitivity", "{w}/m.gguf", "-o", "{r}/costs.json", "--estimate", "--types", "Q8_0"),
    "run, states": ("run", "{w}/m.gguf", *SHORT, "--state-dir", "{r}/states"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    base = tmp_path_factory.mktemp("rights")
    readable, writable = base / "r", base / "w"
    hf_to_gguf.convert(TINY, "Q4_0", writable, vision=False)[0].rename(writable / "m.gguf")
    (writable / "text.txt").write_text("What is a hash table? " * 50, encoding="utf-8")
    readable.mkdir()
    shutil.copy(writable / "m.gguf", readable / "m.gguf")
    digest = hashlib.sha256((readable / "m.gguf").read_bytes()).hexdigest()
    (readable / "SHA256SUMS").write_text(f"{digest}  m.gguf\n", encoding="utf-8")
    for path in (*readable.iterdir(), readable):
        path.chmod(path.stat().st_mode & 0o555)
    yield readable, writable
    readable.chmod(0o755)


def filled(form: tuple[str, ...], folders: tuple[Path, Path]) -> list[str]:
    readable, writable = folders
    return [one.replace("{r}", str(readable)).replace("{w}", str(writable)) for one in form]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("form", READING.values(), ids=READING)
def test_what_reads(folders: tuple[Path, Path], form: tuple[str, ...]) -> None:
    before = digests(folders[0])
    code, error = run_unprivileged(*filled(form, folders))
    assert (code, "Traceback" in error) == (0, False), error
    assert digests(folders[0]) == before


@pytest.mark.parametrize("form", WRITING.values(), ids=WRITING)
def test_what_would_write(folders: tuple[Path, Path], form: tuple[str, ...]) -> None:
    before = digests(folders[0])
    code, error = run_unprivileged(*filled(form, folders))
    assert code == 2, error
    assert error.count("Error: ") == 1
    assert "Traceback" not in error
    assert digests(folders[0]) == before
