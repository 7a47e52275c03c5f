"""`chat` and `serve` with odd numbers for each of their options, started: they work, or end with one line."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from faults import commands

from inputs.live_server import LiveServer
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf

TINY_CONTEXT = ("--ctx", "512", "--threads", "1")
ODD = (
    "-1", "0", "1e400", "9" * 20, "", "nan", "inf", "-0", "1e-400", "2147483647", "2147483648", "4294967296",
    "9223372036854775808", "1e18", "1_0", "0x10", " 1 ", "\u0663",
)  # fmt: skip
NO_NUMBERS = ("path", "directory", "file", "text", "choice", "key=value", "file[:scale]", "host:port,...")
# Numbers inside of texts: the option, and what is before the number.
INSIDE = (
    ("--draft", ""),
    ("--lora", "{}.lora.gguf:"),
    ("--rpc", "127.0.0.1:"),
    ("--template-option", "enable_thinking="),
)
FAST = 7  # each seventh of all cases is among the fast ones


def options(verb: str) -> list[tuple[str, str]]:
    found = main.get_command(click.Context(main), verb)
    assert found is not None
    numbers = [
        (max(param.opts, key=len), "")
        for param in found.params
        if isinstance(param, click.Option) and not param.is_flag and param.type.name not in NO_NUMBERS
    ]
    return [*numbers, *INSIDE]


def cases(verb: str) -> list[object]:
    made = [(option, before, text) for option, before in options(verb) for text in ODD]
    slow = pytest.mark.slow
    return [pytest.param(*one, marks=() if not number % FAST else slow) for number, one in enumerate(made)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return hf_to_gguf.convert(commands.TINY, "Q8_0", folder, vision=False)[0].rename(folder / "model.gguf")


def given(option: str, before: str, text: str, model: Path) -> list[str]:
    """The arguments; a default of the test that the option is for is left out."""
    defaults = [] if option in ("--ctx", "--threads") else list(TINY_CONTEXT)
    return [*defaults, f"{option}={before.replace('{}', str(model))}{text}"]


def check_refusal(code: int, errors: str) -> None:
    lines = errors.splitlines()
    assert code == 2, errors
    assert lines, "no message"
    assert len(lines) == 1 or (len(lines) <= 4 and lines[0].startswith("Usage: ")), errors
    assert lines[-1].startswith("Error: "), errors
    assert len(lines[-1]) < 2000


# ---- chat --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "before", "text"), cases("chat"))
def test_a_chat_answers_or_is_refused(model: Path, option: str, before: str, text: str) -> None:
    length = [] if option == "--tokens" else ["-n", "2"]
    arguments = ["chat", str(model), "--no-think", *length, *given(option, before, text, model)]
    result = CliRunner().invoke(main, arguments, input="Hi\n/quit\n")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.exit_code:
        check_refusal(result.exit_code, result.stderr)
    else:
        assert "Error: " not in result.stderr, result.stderr
        assert "prompt: " in result.stderr  # the figures of an answer


# ---- serve -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begins() -> Iterator[commands.Zygote]:
    if sys.platform == "win32":
        pytest.skip("Windows has no fork")
    with commands.zygote("serve") as made:
        yield made


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize(("option", "before", "text"), cases("serve"))
def test_a_server_answers_or_is_refused(
    begins: commands.Zygote, model: Path, tmp_path: Path, option: str, before: str, text: str
) -> None:
    port = None
    free = [] if option == "--port" else ["--port", "0"]
    command = ("serve", str(model), *free, *given(option, before, text, model))
    child = begins.begin(command, tmp_path, commands.emptied(tmp_path / "server"))
    answer = None
    try:
        if port := listening(begins, child):
            body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            answer = LiveServer(port).post("/v1/chat/completions", body)
    finally:
        code = begins.end(child, signal.SIGINT if port else None)
    assert "Traceback" not in begins.error()
    if answer is None:
        check_refusal(code, begins.error())
        return
    assert code == 0, begins.error()
    if answer.status == 503:  # little memory, nobody at that port
        wanted = {"--memory": "bytes are available", "--rpc": "cannot be reached"}
        assert wanted[option] in answer.json["error"]["message"]
        return
    if option in ("--ctx", "--gpu-layers") and answer.status == 500:  # more than this machine has
        assert "cannot be loaded; the server's log has the reason" in answer.json["error"]["message"]
        return
    assert answer.status == 200, answer.body
    assert answer.json["choices"]


def listening(begins: commands.Zygote, child: int) -> int | None:
    """Wait until a server listens, and return its port; None: it ended before."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        if found := re.search(r"^http://[^:]+:(\d+)", begins.out.read_text(), re.MULTILINE):
            return int(found[1])
        if commands.has_ended(child):
            return None
        time.sleep(0.005)
    raise AssertionError(f"neither listens nor ends: {begins.error()}")
