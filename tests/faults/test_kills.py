"""kill -9 at random moments: what is there afterwards is whole, and the work goes to its end when it is repeated.

QWEN35_KILLS sets how many kills there are of each kind.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import commands

from qwen35_gguf.quant import imatrix
from qwen35_gguf.quant.rounding import moments
from qwen35_gguf.runtime.engine.forest.state_store import MAGIC

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]
KILLS = int(os.environ.get("QWEN35_KILLS", "20"))


@pytest.fixture(scope="module")
def begins() -> Iterator[commands.Zygote]:
    with commands.zygote("package", "serve", "imatrix") as made:
        yield made


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commands.make_inputs(tmp_path_factory.mktemp("given"))


def test_kills_of_a_release(begins: commands.Zygote, given: Path, tmp_path: Path) -> None:
    folder, begun = commands.emptied(tmp_path / "whole"), time.monotonic()
    assert begins.end(begins.begin(commands.PACKAGE, given, folder)) == 0, begins.error()
    whole, seconds = commands.digests(folder), time.monotonic() - begun
    assert whole
    chance, finished = random.Random(1), 0
    folder = commands.emptied(tmp_path / "killed")
    for kill in range(KILLS):
        child = begins.begin(commands.PACKAGE, given, folder)
        time.sleep(chance.uniform(0, seconds / 2))
        code = begins.end(child, signal.SIGKILL)
        assert code in (0, -signal.SIGKILL), f"kill {kill}: {begins.error()}"
        assert "Traceback" not in begins.error()
        for name, digest in commands.digests(folder).items():
            assert whole[name] == digest, f"kill {kill}: {name} is damaged"
        if commands.digests(folder) == whole:
            finished += 1
            assert begins.end(begins.begin(commands.PACKAGE, given, folder)) == 0, f"kill {kill}: {begins.error()}"
            assert commands.digests(folder) == whole
            commands.emptied(folder)
    assert begins.end(begins.begin(commands.PACKAGE, given, folder)) == 0, begins.error()
    assert commands.digests(folder) == whole
    print(f"{KILLS} kills of a release, {finished + 1} finished")


def test_kills_of_moments_layer_after_layer(begins: commands.Zygote, given: Path, tmp_path: Path) -> None:
    """Each run resumes what the one before it left, and in the end nothing of that is left."""
    command = commands.COMMANDS["moments, sequential"]
    whole, begun = commands.emptied(tmp_path / "whole"), time.monotonic()
    assert begins.end(begins.begin(command, given, whole)) == 0, begins.error()
    seconds, chance, finished, resumed = time.monotonic() - begun, random.Random(2), 0, 0
    folder = commands.emptied(tmp_path / "killed")
    for kill in range(KILLS + 1):
        resumed += any(".layer-" in path.name for path in folder.iterdir())
        child = begins.begin(command, given, folder)
        if kill < KILLS:
            time.sleep(chance.uniform(0, seconds))
        code = begins.end(child, signal.SIGKILL if kill < KILLS else None, patience=600)
        assert code in (0, -signal.SIGKILL), f"kill {kill}: {begins.error()}"
        for name in {path.name for path in folder.glob("*.gguf")}:
            _check_same(folder / name, whole / name)
        if code == 0:
            finished += 1
            assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
            commands.emptied(folder)
    assert finished
    print(f"{KILLS} kills of moments, {resumed} runs resumed, {finished} finished")


def _check_same(found: Path, wanted: Path) -> None:
    """Compare what a run that was resumed has made: sums were rounded to 32 bits on the way."""
    if found.name.endswith(".moments.gguf"):
        made, other = moments.read(found), moments.read(wanted)
        assert made.names == other.names
        for name in other.names:
            np.testing.assert_allclose(made.entry(name).squares, other.entry(name).squares, rtol=1e-4, atol=1e-6)
        return
    entries, others = imatrix.read(found).entries, imatrix.read(wanted).entries
    assert entries.keys() == others.keys()
    for name, entry in others.items():
        np.testing.assert_allclose(entries[name].sums, entry.sums, rtol=1e-4)


def test_kills_of_a_server(begins: commands.Zygote, given: Path, tmp_path: Path) -> None:
    """States on disk stay whole, and a server that starts again uses them."""
    chance, folder = random.Random(3), commands.emptied(tmp_path / "server")
    seen, reused, answers = 0, 0, 0
    for number in range(KILLS):
        child = begins.begin(commands.COMMANDS["serve"], given, folder)
        port = _port(begins, child)
        killed = time.monotonic() + chance.uniform(0, 3)
        count = 0
        while time.monotonic() < killed:
            text = f"{chance.randrange(5)} {'x ' * 1500}"  # one of a few, so that states are found again
            said = [("user", text), ("assistant", "Yes."), ("user", "And now?")]  # a state is saved at a message
            messages = [{"role": role, "content": content} for role, content in said]
            body = json.dumps({"messages": messages, "max_tokens": 1})
            with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
                if chance.random() < 0.3:  # while it answers
                    time.sleep(chance.uniform(0, 0.05))
                    break
                answer = connection.getresponse()
                assert answer.status == 200
                cached = re.search(rb'"cached_tokens": ?(\d+)', answer.read())
                reused += count == 0 and cached is not None and int(cached[1]) > 0
                count += 1
        assert begins.end(child, signal.SIGKILL) == -signal.SIGKILL, begins.error()
        assert "Traceback" not in begins.error(), f"kill {number}: {begins.error()}"
        answers += count
        for path in folder.glob("states/*.state"):
            seen += 1
            assert path.read_bytes().startswith(MAGIC), f"kill {number}: {path.name} is damaged"
    assert seen or KILLS < 20
    print(f"{KILLS} kills of a server, {answers} answers, {seen} states seen, {reused} first answers from states")


def _port(begins: commands.Zygote, child: int) -> int:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        if found := re.search(r"http://[^:]+:(\d+)", begins.out.read_text() + begins.error()):
            with closing(HTTPConnection("127.0.0.1", int(found[1]), timeout=60)) as connection:
                try:
                    connection.request("GET", "/health")
                    connection.getresponse().read()
                except (OSError, HTTPException):
                    continue
                return int(found[1])
        time.sleep(0.01)
    begins.end(child, signal.SIGKILL)
    raise AssertionError(f"the server did not start: {begins.error()}")
