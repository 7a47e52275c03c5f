"""Run a command as somebody who may not write everywhere, also where the tests are run by root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

from oracles.paths import ROOT

VERSION = 0x20080522  # of the structures of capget(2)
FILE_RIGHTS = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def run_unprivileged(*arguments: object) -> tuple[int, str]:
    """Run a command in a process without root's rights over files; return its exit code and what is on stderr."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path]))
    program = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600, env=environment)
    return done.returncode, done.stderr


def _give_up() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    head, sets = (ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, sets) == 0
    for which in (0, 1):  # effective, permitted
        sets[which] &= ~FILE_RIGHTS
    assert libc.capset(head, sets) == 0


if __name__ == "__main__":
    from qwen35_gguf.cli import main

    if os.geteuid() == 0:
        _give_up()
    main(args=sys.argv[1:])
