"""Kills and Ctrl-C at random moments: what is there afterwards is whole, and the work goes to its end when repeated.

QWEN35_KILLS sets how many kills there are of each kind.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from oracles.paths import ROOT, TINY
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.engine.forest.state_store import MAGIC

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs signals")]
KILLS = int(os.environ.get("QWEN35_KILLS", "20"))
PACKAGE = ("package", str(TINY), "--quants", "Q4_0,Q8_0", "--no-measure", "--license", "mit")


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "qwen35_gguf.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.gguf")}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """The files of a release that nothing stopped, and the seconds that it took."""
    folder, begun = tmp_path_factory.mktemp("whole") / "release", time.monotonic()
    process = start(*PACKAGE, "-o", folder)
    assert process.communicate(timeout=600)[1].count("Traceback") == 0
    assert process.returncode == 0
    return digests(folder), time.monotonic() - begun


def test_kills_of_a_release(release: tuple[dict[str, str], float], tmp_path: Path) -> None:
    whole, seconds = release
    chance, number, finished = random.Random(1), 0, 0
    folder = tmp_path / "0"
    for kill in range(KILLS):
        process = start(*PACKAGE, "-o", folder)
        try:
            process.wait(chance.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
        _, error = process.communicate()
        assert "Traceback" not in error
        for name, digest in digests(folder).items() if folder.exists() else ():
            assert whole[name] == digest, f"kill {kill}: {name} is damaged"
        if process.returncode == 0:
            assert digests(folder) == whole
            finished, number = finished + 1, number + 1
            folder = tmp_path / str(number)
    process = start(*PACKAGE, "-o", folder)
    process.communicate(timeout=600)
    assert process.returncode == 0
    assert digests(folder) == whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_to_gguf.convert(TINY, "Q8_0", tmp_path_factory.mktemp("model"), vision=False)[0]


def test_ctrl_c_in_every_phase_of_a_run(model: Path) -> None:
    """It ends with one line, while the model is loaded and while it writes."""
    chance = random.Random(2)
    for number in range(max(5, KILLS // 4)):
        process = start("run", model, "Tell me a story", "-n", "400", "--ctx", "1k")
        # From the moment on that Python has its handler: before, it is the shell that reports.
        time.sleep(chance.uniform(0.4, 2.5))
        process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"{number}: did not end: {process.communicate()[1]}")
        assert process.returncode in (0, 1, 130, -signal.SIGINT), error
        if process.returncode == 130:
            assert "Traceback" not in error, f"{number}: {error}"


def test_kills_of_a_server(model: Path, tmp_path: Path) -> None:
    """States on disk stay whole, and a server that starts again uses them."""
    chance = random.Random(3)
    states = tmp_path / "states"
    for number in range(max(3, KILLS // 10)):
        process = start("serve", model, "--port", "0", "--ctx", "1k", "--state-dir", states)
        port = _port(process)
        end = time.monotonic() + chance.uniform(0, 3)
        count = 0
        while time.monotonic() < end:
            count += 1
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            body = f'{{"messages": [{{"role": "user", "content": "{number} {count} {"x " * 200}"}}], "max_tokens": 1}}'
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            assert connection.getresponse().status == 200
            connection.close()
        process.kill()
        process.communicate()
        for path in states.glob("*.state"):
            assert path.read_bytes().startswith(MAGIC)


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    assert process.stdout is not None
    for stream in (process.stdout, process.stderr):
        for line in stream:
            if found := re.search(r"http://[^:]+:(\d+)", line):
                return int(found[1])
    raise AssertionError("the server did not start")
