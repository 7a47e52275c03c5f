"""Commands that tests begin and stop: what each finds in its folder, and a process that begins them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner

from oracles.paths import ROOT, TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf

PACKAGE = ("package", str(TINY), "-o", "[]/release", "--quants", "Q4_0,Q8_0", "--no-measure", "--license", "mit")
IMATRIX = ("imatrix", "{}/model.gguf", "-f", "{}/text.txt", "--chunk", "64", "-o", "[]/i.gguf")
TEXT = ("-f", "{}/text.txt", "--chunk", "64", "--chunks", "4", "--no-effects", "--threads", "1")
SEQUENTIAL = ("imatrix", "{}/exact.gguf", *TEXT, "--moments", "block", "--sequential", "{}/model.gguf", "-o")
ROUNDED = ("convert", str(TINY), "-q", "Q8_0", "--rounding", "sequential", "--moments", "{}/i.moments.gguf")
# {} is the folder of what is given, [] that of the results.
COMMANDS = {
    "convert": ("convert", str(TINY), "-q", "Q4_K_M", "-o", "[]", "--jobs", "1"),
    "imatrix": IMATRIX,
    "moments": (*IMATRIX, "--moments", "block"),
    "moments, sequential": (*SEQUENTIAL, "[]/i.gguf"),
    "convert, sequential": (*ROUNDED, "-o", "[]", "--jobs", "1"),
    "split": ("split", "{}/model.gguf", "-o", "[]/out", "--max-shard-size", "1MB"),
    "sensitivity": ("sensitivity", "{}/exact.gguf", "-o", "[]/costs.json", "--estimate", "--types", "Q8_0"),
    "verify": ("verify", "{}/exact.gguf", "--against", str(TINY), "--no-parity"),
    "evaluate": ("evaluate", "{}/model.gguf", "--reference", "{}/exact.gguf", "-f", "{}/text.txt", "--chunk", "128"),
    "package": PACKAGE,
    "run": ("run", "{}/model.gguf", "Tell me a story", "-n", "200", "--ctx", "1k"),
    "serve": ("serve", "{}/model.gguf", "--port", "0", "--ctx", "8k", "--state-dir", "[]/states"),
}  # fmt: skip


def make_inputs(folder: Path) -> Path:
    """Write the demo model in two types, a text, and moments of it."""
    hf_to_gguf.convert(TINY, "Q8_0", folder, vision=False)[0].rename(folder / "model.gguf")
    hf_to_gguf.convert(TINY, "BF16", folder, vision=False)[0].rename(folder / "exact.gguf")
    (folder / "text.txt").write_text((TINY / "evaluation.txt").read_text(encoding="utf-8")[:6000], encoding="utf-8")
    made = CliRunner().invoke(main, [one.replace("{}", str(folder)) for one in (*SEQUENTIAL, "{}/i.gguf")])
    assert made.exit_code == 0, made.output
    return folder


def digests(folder: Path, pattern: str = "*.gguf") -> dict[str, str]:
    """Return the checksums of the files of a folder and of those below it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob(pattern)
    }


class Zygote:
    """A process that begins commands one after the other (zygote.py)."""

    def __init__(self, *verbs: str) -> None:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        program = [sys.executable, str(Path(__file__).with_name("zygote.py")), *verbs]
        self._process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
            start_new_session=True,
        )

    def begin(self, command: tuple[str, ...], given: Path, folder: Path) -> int:
        """Begin a command whose results go to a folder; return its process id."""
        arguments = [one.replace("[]", str(folder)).replace("{}", str(given)) for one in command]
        self.out, self.err = folder.with_name(f"{folder.name}.out"), folder.with_name(f"{folder.name}.err")
        self.err.unlink(missing_ok=True)
        self._send(json.dumps({"arguments": arguments, "out": str(self.out), "err": str(self.err)}))
        child = int(self._receive())
        while not self.err.exists() or "begun" not in self.err.read_text():
            time.sleep(0.002)
        return child

    def end(self, child: int, with_signal: signal.Signals | None = None, patience: float = 120) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        if with_signal is not None:
            os.kill(child, with_signal)  # one that has ended is still there until it is waited for
        end = time.monotonic() + patience
        while not has_ended(child):
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"did not end: {self.error()}")
            time.sleep(0.002)
        self._send("")
        return int(self._receive())

    def error(self) -> str:
        """Return what the command wrote to stderr."""
        return self.err.read_text().partition("begun\n")[2]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(600)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _receive(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def has_ended(child: int) -> bool:
    """Whether a process is a zombie."""
    return Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2].startswith("Z")


@contextlib.contextmanager
def zygote(*verbs: str) -> Iterator[Zygote]:
    """Begin a zygote, and end it."""
    made = Zygote(*verbs)
    try:
        yield made
    finally:
        made.close()


def emptied(folder: Path) -> Path:
    """Make a folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
