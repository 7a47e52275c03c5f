"""A limit of threads, raised one by one: one line and exit code 2, or the work is done; no traceback, no abort.

OpenBLAS and libgomp end the process where a thread does not start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.limits.small_runs import COMMANDS, inputs

from oracles.paths import ROOT

__all__ = ["inputs"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")
SOURCE = Path(__file__).with_name("limit_threads.c")
QUICK = ("run", "convert")
SLOW = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COMMANDS]


@pytest.fixture(scope="module")
def limiter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("limiter") / "limit_threads.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-ldl", "-pthread"], check=True)
    return made


def attempt(limiter: Path, limit: int, command: list[str]) -> tuple[int, str]:
    environment = dict(os.environ, LD_PRELOAD=str(limiter), QWEN35_THREADS=str(limit))
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    program = [sys.executable, "-m", "qwen35_gguf", *command]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, env=environment)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", SLOW)
def test_a_limit_that_is_raised_by_one(inputs: Path, limiter: Path, name: str) -> None:
    command = [one.replace("{}", str(inputs)) for one in COMMANDS[name]]
    codes: list[int] = []
    while codes[-2:] != [0, 0]:
        limit = len(codes) + 1
        code, error = attempt(limiter, limit, command)
        assert code in (0, 2), f"{limit} threads: {code}: {error}"
        if code == 2:
            assert "Traceback" not in error, f"{limit} threads: {error}"
            last = error.splitlines()[-1]  # some work is reported before
            assert last.startswith("Error: "), f"{limit} threads: {error}"
            assert "raise the limit of processes (`ulimit -u`" in last
            assert 0 not in codes, f"{limit} threads: {error}"
        codes.append(code)
    assert codes[0] == 2
