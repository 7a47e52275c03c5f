"""Run a command as somebody who may not write everywhere, also where the tests are run by root."""

from __future__ import annotations

import ctypes
import json
import os
import sys

from click.testing import CliRunner

VERSION = 0x20080522  # of the structures of capget(2)
FILE_RIGHTS = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def run_unprivileged(*arguments: object) -> tuple[int, str]:
    """Run a command in a child without root's rights over files; return its exit code and what is on stderr."""
    from qwen35_gguf.cli import main

    receive, send = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code, error = 1, "no result"
        try:
            if os.geteuid() == 0:
                _give_up()
            result = CliRunner().invoke(main, [str(argument) for argument in arguments])
            code, error = (
                result.exit_code,
                result.stderr + ("" if result.exit_code in (0, 2) else repr(result.exception)),
            )
        finally:
            os.write(send, json.dumps([code, error[-4000:]]).encode())
            os._exit(0)
    os.close(send)
    data = os.read(receive, 1 << 16)
    os.close(receive)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"{arguments[0]}: ended with {status}"
    found = json.loads(data)
    return found[0], found[1]


def _give_up() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    head, sets = (ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, sets) == 0
    for which in (0, 1):  # effective, permitted
        sets[which] &= ~FILE_RIGHTS
    assert libc.capset(head, sets) == 0
