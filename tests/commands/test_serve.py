"""`qwen35 serve` as a process: it answers, ends streams before it stops, and refuses what is not safe."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from inputs.live_server import LiveServer
from qwen35_gguf.cli import main

CHAT = "/v1/chat/completions"


@contextlib.contextmanager
def serving(folder: Path, *more: str, keys: str | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from qwen35_gguf.cli import main; main()", "serve", folder / "model.gguf"]
    options = ["--port", "0", "--ctx", "2k", "--threads", "1", "--alias", "gpt-*", "--grace", "60"]
    environment = os.environ | ({} if keys is None else {"QWEN35_API_KEY": keys})
    with subprocess.Popen(
        [*map(str, command), *options, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with serving(folder, keys="first, second") as running:
        yield running


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_sigterm_lets_a_stream_end(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.match(r"http://localhost:(\d+): model", line)
    assert found, line
    curl, python, agent = (process.stdout.readline() for _ in range(3))
    address = f"http://localhost:{found[1]}"
    assert curl.startswith(f"curl {address}/v1/chat/completions -H ")
    assert python.startswith(("python3 -c ", "python -c "))
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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a group")
def test_ctrl_c_is_the_usual_end(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    found = re.match(r"http://localhost:(\d+): model", process.stdout.readline())
    assert found
    assert LiveServer(int(found[1])).get("/health").status in (200, 503)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Interrupted" not in errors


@pytest.mark.parametrize(
    ("options", "variable"), [(["--api-key", ""], ""), (["--api-key", " , "], ""), ([], " "), ([], " , ")]
)
def test_a_key_without_characters_is_not_taken_for_none(
    folder: Path, options: list[str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN35_API_KEY", variable)
    done = CliRunner().invoke(main, ["serve", str(folder / "model.gguf"), "--port", "0", *options])
    assert done.exit_code == 2
    assert "--api-key, or QWEN35_API_KEY, is empty; give a key, or leave it out" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the lines are for a POSIX shell")
@pytest.mark.parametrize(
    ("options", "keys", "name"),
    [
        ([], None, "localhost"),
        ([], "first, second", "localhost"),
        (["--host", "::1", "--api-key", "one", "--api-key", "two"], None, "[::1]"),
        (["--host", "0.0.0.0", "--api-key", "two"], None, "localhost"),
    ],
)
def test_the_lines_to_copy_are_answered(
    folder: Path, tmp_path: Path, options: list[str], keys: str | None, name: str
) -> None:
    if not (shutil.which("curl") and socket.has_ipv6 and importlib.util.find_spec("openai")):
        pytest.skip("curl, openai or IPv6 is missing")
    (tmp_path / "python3").symlink_to(sys.executable)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"QWEN35_API_KEY": keys or "two"}

    def output(line: str) -> str:
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with serving(folder, *options, keys=keys) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"http://{name}:")
        curl, python, agent = (process.stdout.readline().rstrip("\n") for _ in range(3))
        content = json.loads(output(curl))["choices"][0]["message"]["content"]
        assert content
        assert output(python).strip()
        ask = "import openai; print(*[one.id for one in openai.OpenAI().models.list()])"
        assert output(f'{agent} && python3 -c "{ask}"') == "model\n"
        if "--api-key" in options:
            assert "QWEN35_API_KEY" in process.stdout.readline()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "there is no key"),
        (["--port", "0", "--alias", "x=y"], "there is no model y"),
        (["--port", "0", "--cors", "*"], "there is no key"),
        (["--host", "192.0.2.1", "--api-key", "k", "--port", "0"], "cannot listen"),
        (["--host", "nowhere.invalid", "--api-key", "k"], "cannot listen"),
        (["--port", "0", "--state-dir", f"{__file__}/states"], "cannot be used for states"),
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
