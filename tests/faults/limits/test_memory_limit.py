"""A limit of memory at any point of a load: one line and exit code 2, or the work is done; no traceback, no abort.

QWEN35_MEMORY_STEP sets by how many MiB the limit is raised each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.limits.small_runs import COMMANDS, inputs

from oracles.paths import ROOT
from qwen35_gguf import address_space
from qwen35_gguf.errors import MemoryLimitError

__all__ = ["inputs"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
LEAST, MOST = 40, 4096  # MiB: Python itself needs the least
STEP = int(os.environ.get("QWEN35_MEMORY_STEP", "24"))
PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 20,) * 2)
from qwen35_gguf.cli import main
main(args=sys.argv[2:])
"""


def attempt(limit: int, command: list[str]) -> tuple[int, str]:
    environment = dict(os.environ, OMP_NUM_THREADS="1", GGML_NO_BACKTRACE="1")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    program = [sys.executable, "-c", PROGRAM, str(limit), *command]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, env=environment)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_limit_that_is_raised_step_by_step(inputs: Path, name: str) -> None:
    command = [one.replace("{}", str(inputs)) for one in COMMANDS[name]]
    limit, codes = LEAST, []
    while limit < MOST and codes[-2:] != [0, 0]:
        code, error = attempt(limit, command)
        assert code in (0, 2), f"{limit} MiB: {code}: {error}"
        if code == 2:
            lines = [line for line in error.splitlines() if not line.startswith(("note: ", "warning: "))]
            assert [line.startswith("Error: ") for line in lines] == [True], f"{limit} MiB: {error}"
            assert 0 not in codes, f"{limit} MiB: {error}"
        codes.append(code)
        limit += STEP
    assert codes[0] == 2
    assert codes[-2:] == [0, 0]


def test_what_is_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address_space.require(1 << 60, "anything")  # there is no limit
    monkeypatch.setattr(address_space, "limit", lambda: 1 << 40)
    assert (1 << 39) < (address_space.left() or 0) < 1 << 40
    assert address_space.left(tmp_path) is None
    address_space.require(1 << 39, "a context")
    with pytest.raises(MemoryLimitError, match="a context: needs .* leaves"):
        address_space.require(1 << 40, "a context")
    with pytest.raises(MemoryLimitError):
        address_space.require((1 << 40) - (4 << 30), "threads", threads=1024)
