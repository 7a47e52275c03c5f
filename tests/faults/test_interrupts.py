"""Ctrl-C in every phase of a command: it ends with one line and exit code 130, nothing is half-written, and the same
command does the work afterwards.

QWEN35_INTERRUPTS sets how many there are for each command, spread over the time that it takes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import commands

from qwen35_gguf.quant import imatrix

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]
INTERRUPTS = int(os.environ.get("QWEN35_INTERRUPTS", "8"))
INTERRUPTED = 130
RESUMED = ("imatrix", "moments", "moments, sequential")  # from sums that were rounded to 32 bits on the way
ENDS = (0, INTERRUPTED, -signal.SIGINT)  # the last while Python ends, when the work is done


@pytest.fixture(scope="module")
def begins() -> Iterator[commands.Zygote]:
    with commands.zygote(*{command[0] for command in commands.COMMANDS.values()}) as made:
        yield made


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commands.make_inputs(tmp_path_factory.mktemp("given"))


@pytest.mark.parametrize("name", [name for name in commands.COMMANDS if name != "serve"])
def test_an_interrupt_at_any_moment(begins: commands.Zygote, given: Path, tmp_path: Path, name: str) -> None:
    command, folder = commands.COMMANDS[name], commands.emptied(tmp_path / "whole")
    begun = time.monotonic()
    assert begins.end(begins.begin(command, given, folder)) == 0, begins.error()
    whole, seconds = commands.digests(folder), time.monotonic() - begun
    for number in range(INTERRUPTS):
        folder = commands.emptied(tmp_path / "stopped")
        child = begins.begin(command, given, folder)
        moment = seconds * (number + 0.5) / INTERRUPTS
        time.sleep(moment)
        code = begins.end(child, signal.SIGINT)
        place = f"{name}, after {moment:.2f} of {seconds:.2f} s: {begins.error()}"
        assert code in ENDS, place
        _check_lines(begins.error(), code, place)
        for file, digest in commands.digests(folder).items():
            assert whole.get(file) == digest, f"{place}: {file} is damaged"
    if whole:
        code = begins.end(begins.begin(command, given, folder))
        assert code == 0 or "exists already" in begins.error(), f"{name}, repeated: {begins.error()}"
        if name not in RESUMED:
            assert commands.digests(folder) == whole
            return
        assert commands.digests(folder).keys() == whole.keys()
        found, wanted = (imatrix.read(path / "i.gguf") for path in (folder, tmp_path / "whole"))
        for tensor, entry in wanted.entries.items():
            np.testing.assert_allclose(found.entries[tensor].sums, entry.sums, rtol=1e-5)
            np.testing.assert_array_equal(found.entries[tensor].counts, entry.counts)


def test_interrupts_of_a_server(begins: commands.Zygote, given: Path, tmp_path: Path) -> None:
    """While it starts, and while it waits."""
    for number in range(INTERRUPTS):
        child = begins.begin(commands.COMMANDS["serve"], given, commands.emptied(tmp_path / "server"))
        time.sleep(4 * number / INTERRUPTS)
        code = begins.end(child, signal.SIGINT)
        assert code in ENDS, begins.error()
        _check_lines(begins.error(), code, f"after {4 * number / INTERRUPTS:.2f} s: {begins.error()}")


def _check_lines(error: str, code: int, place: str) -> None:
    assert "Traceback" not in error, place
    assert "Error" not in error, place
    if code == INTERRUPTED:
        assert error.count("Interrupted") == 1, place
