"""Names that file systems allow and few expect, folders that cannot be made, two processes on one file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from oracles.paths import ROOT, TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import OutputError
from qwen35_gguf.runtime.engine.forest import state_store
from qwen35_gguf.runtime.engine.forest.prefix_cache import SequenceState

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="other rules for names")
ODD = {
    "a line end": "a\nb",
    "a surrogate": os.fsdecode(b"a\xffb"),
    "quotes": "a'\"b",
    "spaces": " a b ",
    "a dash": "-a",
}
TOO_LONG = "x" * 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_to_gguf.convert(TINY, "Q4_0", tmp_path_factory.mktemp("names"), vision=False)[0]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# Each reads or writes a file of the name {}; {m} is a model.
READING = (
    "inspect {}",
    "plan {} --ctx 1k",
    "lint {}",
    "metadata {}",
    "run {} Hi -n 1 --no-think --ctx 256",
    "diff {} {m}",
)


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_models_of_odd_names_are_read(model: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.gguf"
    os.link(model, path)
    for form in READING:
        command = [str(path) if word == "{}" else str(model) if word == "{m}" else word for word in form.split()]
        result = run(*command)
        assert result.exit_code in (0, 1), (form, result.output)
        assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_files_of_odd_names_are_written(model: Path, tmp_path: Path, name: str) -> None:
    assert run("metadata", model, "set", "general.name", "x", "-o", tmp_path / f"{name}.gguf").exit_code == 0
    assert run("split", model, "-o", tmp_path / name, "--max-shard-size", "3MB").exit_code == 0
    assert len(list((tmp_path / name).iterdir())) > 1
    result = run("checksum", tmp_path / name, "--write")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", ["inspect", "plan", "lint", "metadata", "run", "verify-release", "checksum"])
def test_names_that_are_too_long_are_one_line(command: str) -> None:
    result = run(command, f"{TOO_LONG}/{TOO_LONG}.gguf", *(["Hi"] if command == "run" else []))
    assert result.exit_code == 2
    assert result.stderr.count("\n") <= 1 or result.stderr.startswith("Usage")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("metadata", "{m}", "set", "general.name", "x", "-o", "{}"),
        ("split", "{m}", "-o", "{}"),
        ("convert", str(TINY), "-q", "Q4_0", "-o", "{}"),
        ("package", str(TINY), "--quants", "Q4_0", "--no-measure", "-o", "{}"),
    ],
)
@pytest.mark.parametrize("kind", ["too long", "below a file", "a loop of links"])
def test_outputs_that_cannot_be_written_are_one_line(
    model: Path, tmp_path: Path, arguments: tuple[str, ...], kind: str
) -> None:
    if kind == "too long":
        target = tmp_path / TOO_LONG
    elif kind == "below a file":
        (tmp_path / "file").write_text("")
        target = tmp_path / "file" / "new"
    else:
        (tmp_path / "loop").symlink_to("loop")
        target = tmp_path / "loop" / "new"
    result = run(*(one.replace("{m}", str(model)).replace("{}", str(target)) for one in arguments))
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.output


# ---- two processes -------------------------------------------------------------------------------------------------


def own_environment() -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def run_both(program: list[str], delay: float) -> tuple[list[int], list[str]]:
    """Start a program twice, `delay` seconds apart; return the exit codes and what went to stderr."""
    both, env = [], own_environment()
    for _ in range(2):
        both.append(subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env))
        time.sleep(delay)
    messages = [process.communicate(timeout=300)[1] for process in both]
    return [process.returncode for process in both], messages


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("convert", "-q", "Q4_0", "--force"), ("package", "--quants", "Q4_0", "--no-measure")]
)
def test_two_processes_on_one_folder(tmp_path: Path, command: tuple[str, ...]) -> None:
    """One of them may be refused; what is there in the end is whole."""
    program = [
        sys.executable,
        "-m",
        "qwen35_gguf.cli",
        command[0],
        str(TINY),
        "-o",
        str(tmp_path / "out"),
        *command[1:],
    ]
    for delay in (0.0, 0.5, 1.0):
        codes, messages = run_both(program, delay)
        assert 0 in codes, messages
        assert set(codes) <= {0, 2}, messages
        assert not any("Traceback" in message for message in messages), messages
        for path in (tmp_path / "out").glob("*.gguf"):
            assert run("inspect", path).exit_code == 0
        assert not list((tmp_path / "out").glob("*.part"))
        shutil.rmtree(tmp_path / "out")


@pytest.mark.slow
def test_two_processes_on_one_file_of_moments(tmp_path: Path) -> None:
    """Both would change the files from which an interrupted run resumes: one of them is refused."""
    exact, eight = (hf_to_gguf.convert(TINY, quant, tmp_path, vision=False)[0] for quant in ("BF16", "Q8_0"))
    text = ["-f", str(TINY / "evaluation.txt"), "--chunk", "32", "--chunks", "4", "--no-effects", "--threads", "1"]
    command = ["imatrix", str(exact), *text, "--moments", "block", "--sequential", str(eight), "-o"]
    program = [sys.executable, "-m", "qwen35_gguf.cli", *command, str(tmp_path / "i.gguf")]
    for delay in (0.0, 1.0, 3.0):
        codes, messages = run_both(program, delay)
        assert sorted(codes) == [0, 2], messages
        refused = messages[codes.index(2)]
        assert "another process is writing it" in refused or "exists already" in refused
        assert sorted(path.name for path in tmp_path.glob("i.*")) == ["i.gguf", "i.moments.gguf"]
        for path in tmp_path.glob("i.*"):
            path.unlink()


WRITER = """
import sys
from pathlib import Path
import numpy as np
from qwen35_gguf.runtime.engine.forest.prefix_cache import SequenceState
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
store = StateStore(Path(sys.argv[1]), "m", 300_000)
for number in range(150):
    fill = (number * 7 + int(sys.argv[2])) % 12
    store.save(SequenceState([fill, 1], 2, 2, np.full(60_000, fill, np.uint8)))
    store.covers([fill, 1])
    for state in store.newest(2):
        whole = store.read(state)
        assert whole is None or (whole.state == state.items[0]).all()
        if whole is None:
            store.forget(state)
"""


def test_processes_with_states_in_one_folder(tmp_path: Path) -> None:
    environment = own_environment()
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    all_ = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True, env=environment) for n in range(3)]
    messages = [process.communicate(timeout=300)[1] for process in all_]
    assert messages == ["", "", ""]
    fresh = state_store.StateStore(tmp_path, "m")
    assert fresh.states
    assert all(fresh.read(state) is not None for state in fresh.states)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 400_000
    assert not list(tmp_path.glob("*.part"))


def test_two_stores_of_states_on_one_folder(tmp_path: Path) -> None:
    stores = [state_store.StateStore(tmp_path, "m", 1_000_000) for _ in range(2)]
    problems: list[Exception] = []

    def save(store: state_store.StateStore) -> None:
        try:
            for number in range(40):
                store.save(SequenceState([number % 12], 1, 1, np.full(60_000, number % 12, np.uint8)))
        except OutputError as error:
            problems.append(error)

    threads = [threading.Thread(target=save, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    fresh = state_store.StateStore(tmp_path, "m")
    assert fresh.states
    for state in fresh.states:
        whole = fresh.read(state)
        assert whole is not None
        assert (whole.state == whole.items[0]).all()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_100_000


def test_a_clock_that_jumps_removes_nothing_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = state_store.StateStore(tmp_path, "m")
    state = SequenceState([1], 1, 1, np.zeros(10, np.uint8))
    path = store.path([1])
    with state_store.atomic_file(path, wait=True) as file:
        file.write(b"half")
        monkeypatch.setattr(time, "time", lambda: 4e9)  # of the year 2096
        state_store.StateStore(tmp_path, "m")
        assert path.with_name(f"{path.name}.part").exists()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert store.read(store.states[0]) is None if store.states else True
    store.save(state)
    assert [found.items for found in state_store.StateStore(tmp_path, "m").newest(3)] == [[1]]
