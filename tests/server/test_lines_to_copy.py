"""The lines to copy work in a shell as they are: with keys, other addresses, and odd names of models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from qwen35_gguf.server.lines_to_copy import KEY_NOTE, LinesToCopy, address_of, key_word

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(os.name == "nt", reason="the lines are for a POSIX shell"),
]

SHELLS = [shell for shell in ("sh", "bash", "dash", "zsh") if shutil.which(shell)]
# Prints what a program is given; in place of curl and python3.
SHOW = '#!/bin/sh\nfor one in "$@"; do printf "%s\\n" "$one"; done\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for name in ("curl", "python3"):
        (tmp_path / name).write_text(SHOW, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(shell: str, line: str, programs: Path, keys: str | None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"} | ({"QWEN35_API_KEY": keys} if keys else {})
    return subprocess.run([shell, "-c", line], capture_output=True, text=True, env=environment, timeout=60, check=False)


def given(shell: str, line: str, programs: Path, keys: str | None) -> list[str]:
    found = run(shell, line, programs, keys)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout.splitlines()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("keys", "count", "from_environment", "key"),
    [
        (None, 0, False, "none"),
        ("one", 1, True, "one"),
        ("one", 1, False, "one"),
        ("one", 3, False, "one"),
        ("first, second", 2, True, "first"),
        ("first second third", 3, True, "first"),
        ("first,second", 2, True, "first"),
        ("a$b`c'd", 1, True, "a$b`c'd"),
    ],
)
def test_the_key_is_one_of_the_servers(
    programs: Path, shell: str, keys: str | None, count: int, from_environment: bool, key: str
) -> None:
    lines = LinesToCopy("http://localhost:8080", "m", key_word(count, from_environment=from_environment))
    url, *rest = given(shell, lines.curl(), programs, keys)
    assert url == "http://localhost:8080/v1/chat/completions"
    assert rest[:-2] == (["-H", f"Authorization: Bearer {key}"] if count else [])
    assert json.loads(rest[-1]) == {"messages": [{"role": "user", "content": "Hello"}]}
    if "'" not in key:
        option, code = given(shell, lines.python(), programs, keys)
        assert option == "-c"
        assert f"api_key='{key}'" in code
        compile(code, "line", "exec")
        assert lines.python().endswith('"  # pip install openai')
    found = given(shell, f"{lines.agent()}; env", programs, keys)
    assert {
        "OPENAI_BASE_URL=http://localhost:8080/v1",
        f"OPENAI_API_KEY={key}",
        "ANTHROPIC_BASE_URL=http://localhost:8080",
        f"ANTHROPIC_API_KEY={key}",
    } <= set(found)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_key_that_is_not_set_is_asked_for(programs: Path, shell: str) -> None:
    lines = LinesToCopy("http://localhost:8080", "m", key_word(2, from_environment=False))
    for line in (lines.curl(), lines.python(), lines.agent()):
        found = run(shell, line, programs, None)
        assert found.returncode
        assert "QWEN35_API_KEY" in found.stderr
    assert "QWEN35_API_KEY" in KEY_NOTE


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["Qwen3.5-9B-Q4_K_M", "it's", 'a "b" $HOME `id` \\n', "KEY", "grün (2)"])
def test_any_name_of_a_model_is_itself(programs: Path, shell: str, name: str) -> None:
    _, code = given(shell, LinesToCopy("http://localhost:1", name, "none").python(), programs, None)
    assert f"model={name!r}" in code
    compile(code, "line", "exec")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://localhost:8080"),
        ("localhost", "http://localhost:8080"),
        ("0.0.0.0", "http://localhost:8080"),
        ("::", "http://localhost:8080"),
        ("::1", "http://[::1]:8080"),
        ("192.168.1.5", "http://192.168.1.5:8080"),
        ("box.lan", "http://box.lan:8080"),
    ],
)
def test_the_address_is_one_that_clients_reach(programs: Path, host: str, address: str) -> None:
    assert address_of(host, 8080) == address
    lines = LinesToCopy(address, "m", "none")
    assert given("sh", lines.curl(), programs, None)[0] == f"{address}/v1/chat/completions"
    assert f"base_url='{address}/v1'" in given("sh", lines.python(), programs, None)[1]
    assert f"ANTHROPIC_BASE_URL={address}" in given("sh", f"{lines.agent()}; env", programs, None)
