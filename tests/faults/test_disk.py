"""A full or broken disk at any write: one line and exit code 2; no file is half-written, none is lost, and what is left
can be continued.

QWEN35_FAULT_STEP=7 tries every seventh operation of the long commands, QWEN35_FAULT_FIRST which of the seven is first.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from oracles.paths import ROOT, TINY
from qwen35_gguf.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")
SOURCE = Path(__file__).with_name("fail_writes.c")
DRIVER = Path(__file__).with_name("every_write.py")
# Files that appear in a folder beside the results: they are remains of a run that may be continued.
REMAINS = re.compile(r"\.(part|lock|qwen35-package\.json|effects|plain|(group|layer|streams)-\d+)$")
JOURNAL = ".header.part"  # of a header that is being changed: the file is made whole from it

IMATRIX = ("imatrix", "{}/model.gguf", "-f", "{}/text.txt", "--chunk", "64", "--chunks", "2")
OF_EXACT = ("imatrix", "{}/exact.gguf", *IMATRIX[2:], "--moments", "block", "--no-effects", "--threads", "1")
SEQUENTIAL = (*OF_EXACT, "--sequential", "{}/model.gguf")
ROUNDED = ("convert", str(TINY), "-q", "Q8_0", "--rounding", "sequential", "--moments", "{}/i.moments.gguf")
# What each command finds in its folder (by name), and its arguments; [] is the folder.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "convert": ((), ("convert", str(TINY), "-q", "Q4_0", "-o", "[]/out", "--jobs", "1")),
    "convert --force": (("old",), ("convert", str(TINY), "-q", "Q8_0", "-o", "[]", "--jobs", "1", "--force")),
    "split": (("model.gguf",), ("split", "[]/model.gguf", "-o", "[]/out", "--max-shard-size", "3MB")),
    "merge": (("shards",), ("merge", "[]/part-00001-of-00003.gguf", "-o", "[]/whole.gguf")),
    "metadata": (("model.gguf",), ("metadata", "[]/model.gguf", "set", "general.name", "Another name")),
    "metadata in place": (("model.gguf",), ("metadata", "[]/model.gguf", "set", "general.name", "0000000000000000")),
    "metadata -o": (("model.gguf",), ("metadata", "[]/model.gguf", "set", "general.name", "x", "-o", "[]/copy.gguf")),
    "checksum": (("model.gguf",), ("checksum", "[]", "--write")),
    "imatrix": ((), (*IMATRIX, "-o", "[]/i.gguf")),
    "moments": ((), (*IMATRIX, "-o", "[]/i.gguf", "--moments", "block")),
    "moments, sequential": ((), (*SEQUENTIAL, "-o", "[]/i.gguf")),
    "convert --rounding sequential": (("old",), (*ROUNDED, "-o", "[]", "--jobs", "1", "--force")),
    "sensitivity": ((), ("sensitivity", "{}/exact.gguf", "-o", "[]/costs.json", "--estimate", "--types", "Q8_0")),
    "package": ((), ("package", str(TINY), "-o", "[]/release", "--quants", "Q4_0", "--no-measure", "--license", "mit")),
    "states": ((), ("states", "[]")),
    "profile": (("model.gguf",), ("profile", "[]")),
}  # fmt: skip
QUICK = ("metadata in place", "states", "profile")
FIRST, STEP = (int(os.environ.get(f"QWEN35_FAULT_{name}", "1")) for name in ("FIRST", "STEP"))
FAULTS = {"full": (errno.ENOSPC, 1), "broken": (errno.EIO, 0)}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets writes fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("shim") / "fail_writes.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", str(SOURCE), "-o", str(path), "-ldl"], check=True)
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in Q8_0 and BF16, as shards, and a text."""
    from qwen35_gguf.convert import hf_to_gguf
    from qwen35_gguf.gguf_file import shards

    folder = tmp_path_factory.mktemp("inputs")
    hf_to_gguf.convert(TINY, "Q8_0", folder, vision=False)[0].rename(folder / "model.gguf")
    hf_to_gguf.convert(TINY, "BF16", folder, vision=False)[0].rename(folder / "exact.gguf")
    shards.split(folder / "model.gguf", folder / "shards", 3_000_000, prefix="part")
    (folder / "text.txt").write_text((TINY / "evaluation.txt").read_text(encoding="utf-8")[:3000], encoding="utf-8")
    return folder


def runs(
    shim: Path, inputs: Path, folder: Path, name: str, fault: str, first: int, step: int
) -> Iterator[dict[str, Any]]:
    """Run a command with a fault at every operation."""
    found, arguments = COMMANDS[name]
    folder.mkdir()
    if "{}/i.moments.gguf" in arguments and not (inputs / "i.moments.gguf").exists():
        given = [one.replace("{}", str(inputs)) for one in (*SEQUENTIAL, "-o", "{}/i.gguf")]
        assert CliRunner().invoke(main, given).exit_code == 0
    for each in found:
        if each == "old":
            for old in ("Tiny-Qwen3.5-6.4M-Q8_0.gguf", "mmproj-Tiny-Qwen3.5-6.4M-Q8_0.gguf"):
                (folder / old).write_text("an older file")
        elif (inputs / each).is_dir():
            shutil.copytree(inputs / each, folder, dirs_exist_ok=True)
        else:
            shutil.copy(inputs / each, folder)
    command = [one.replace("[]", str(folder)).replace("{}", str(inputs)) for one in arguments]
    environment = dict(os.environ, LD_PRELOAD=str(shim), OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    temporary = folder.with_name(f"{folder.name}.temporary")  # fails, too: its name begins with the folder's
    temporary.mkdir(exist_ok=True)
    environment["TMPDIR"] = str(temporary)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    number, lasting = FAULTS[fault]
    program = [sys.executable, str(DRIVER), str(folder), str(number), str(lasting), str(first), str(step), *command]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        yield json.loads(line)


def check(shim: Path, inputs: Path, folder: Path, name: str, fault: str, first: int = 1, step: int = 1) -> int:
    """Check what is left after each fault; return how many there were."""
    before, whole, *damaged = runs(shim, inputs, folder, name, fault, first, step)
    assert whole["code"] == 0, whole
    assert damaged
    number = 0
    for run in damaged:
        if run["again"]:  # with what the fault has left; only what is there already may be refused
            place = f"{name}, {fault}, again after operation {number}: {run['error']}"
            assert run["code"] == 0 or "exists already" in run["error"], place
            if run["code"] == 0:
                assert {k: v for k, v in run["left"].items() if k in whole["left"]} == whole["left"], place
            continue
        number = run["number"]
        place = f"{name}, {fault}, operation {number}: {run['error']}"
        assert run["code"] in (0, 2), place
        if run["code"] == 2:
            assert run["error"].count("Error: ") == 1, place
            assert "Traceback" not in run["error"], place
        else:  # what failed did not matter
            assert {k: v for k, v in run["left"].items() if k in whole["left"]} == whole["left"], place
        for file, digest in run["left"].items():
            if not REMAINS.search(file) and f"{file}{JOURNAL}" not in run["left"]:
                assert digest in (before["left"].get(file), whole["left"].get(file)), f"{place}: {file} is damaged"
        for file in before["left"]:
            assert file in run["left"] or file not in whole["left"], f"{place}: {file} is lost"
    return len(damaged)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_write(shim: Path, inputs: Path, tmp_path: Path, name: str, fault: str) -> None:
    check(shim, inputs, tmp_path / "folder", name, fault)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in QUICK])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_write_of_long_commands(
    shim: Path, inputs: Path, tmp_path: Path, name: str, fault: str
) -> None:
    assert check(shim, inputs, tmp_path / "folder", name, fault, FIRST, STEP) > 1
