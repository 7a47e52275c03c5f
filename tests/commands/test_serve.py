"""`qwen35 serve` as a process: it answers, ends streams before it stops, and refuses what is not safe."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from inputs.live_server import LiveServer
from qwen35_gguf.cli import main

CHAT = "/v1/chat/completions"


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from qwen35_gguf.cli import main; main()", "serve", folder / "model.gguf"]
    options = ["--port", "0", "--ctx", "2k", "--threads", "1", "--alias", "gpt-*", "--grace", "60"]
    environment = os.environ | {"QWEN35_API_KEY": "first, second"}
    with subprocess.Popen(
        [*map(str, command), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_sigterm_lets_a_stream_end(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.match(r"http://localhost:(\d+): model", line)
    assert found, line
    curl, python, agent = (process.stdout.readline() for _ in range(3))
    address = f"http://localhost:{found[1]}"
    assert curl.startswith(f"curl {address}/v1/chat/completions -H ")
    assert python.startswith("python -c ")
    assert f"base_url='{address}/v1'" in python
    assert f"OPENAI_BASE_URL={address}/v1" in agent
    assert f"ANTHROPIC_BASE_URL={address} " in agent
    server = LiveServer(int(found[1]), {"Authorization": "Bearer second"})
    assert LiveServer(server.port).get("/v1/models").status == 401
    connection = server.connection()
    body = {"model": "gpt-7", "messages": [{"role": "user", "content": "Tell me a story"}], "stream": True}
    connection.request("POST", CHAT, json.dumps({**body, "max_tokens": 300}), server.headers)
    response = connection.getresponse()
    assert response.status == 200
    begin = response.read(20)
    process.send_signal(signal.SIGTERM)
    assert (begin + response.read()).endswith(b"data: [DONE]\n\n")
    connection.close()
    output, errors = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in output + errors
    assert "first" not in output + errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "there is no key"),
        (["--port", "0", "--alias", "x=y"], "there is no model y"),
        (["--port", "0", "--cors", "*"], "there is no key"),
        (["--host", "192.0.2.1", "--api-key", "k", "--port", "0"], "cannot listen"),
        (["--host", "nowhere.invalid", "--api-key", "k"], "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_one_line(folder: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["serve", str(folder / "model.gguf"), *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["mmproj-model.gguf", "text.txt", "missing.gguf", "adapter"])
def test_what_is_not_a_model_is_refused(folder: Path, name: str) -> None:
    result = CliRunner().invoke(main, ["serve", str(folder / name), "--port", "0"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
