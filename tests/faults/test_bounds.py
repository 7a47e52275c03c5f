"""No kernel touches a byte beyond its arrays, at odd sizes too: behind each array is a page that may not be touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oracles.paths import ROOT

pytestmark = [pytest.mark.unit, pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")]
PROGRAM = Path(__file__).with_name("guarded.py")
BEYOND = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, guarded
array = guarded.guarded(np.zeros(8, np.float32), at_end=sys.argv[2] == "end")
ctypes.string_at(array.ctypes.data + (32 if sys.argv[2] == "end" else -1), 1)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_no_kernel_reads_or_writes_beyond_its_arrays() -> None:
    done = run("-X", "faulthandler", str(PROGRAM))
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}: {done.stderr}"
    assert done.stdout.endswith("done\n")


@pytest.mark.parametrize("side", ["begin", "end"])
def test_a_byte_beyond_an_array_ends_the_process(side: str) -> None:
    assert run("-c", BEYOND, str(PROGRAM.parent), side).returncode == -signal.SIGSEGV
