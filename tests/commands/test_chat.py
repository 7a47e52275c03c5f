"""`qwen35 chat`: what is typed, and what comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from inputs.live_server import serving
from qwen35_gguf.commands.run import chat
from qwen35_gguf.runtime import model


def talk(file: Path, *lines: str, arguments: tuple[str, ...] = ()) -> Result:
    words = [str(file), "--threads", "1", "--ctx", "1024", "-n", "6", "--temp", "0", "--draft", "0", *arguments]
    return CliRunner().invoke(chat.command, words, input="".join(line + "\n" for line in lines))


def test_a_conversation_reuses_what_was_said(files: list[Path]) -> None:
    result = talk(files[0], "one two", "three", "/quit", arguments=("--no-think", "--system", "Be kind. " * 30))
    assert result.exit_code == 0, result.output
    figures = [line for line in result.stderr.splitlines() if line.startswith("prompt: ")]
    assert len(figures) == 2
    assert "reused" not in figures[0]
    assert "reused" in figures[1]


def test_history_and_reset(files: list[Path]) -> None:
    said = talk(files[0], "one two", "/history", arguments=("--no-think",)).stdout
    assert "user: one two\nassistant: " in said
    said = talk(files[0], "one two", "/reset", "/history", arguments=("--no-think",)).stdout
    assert "user: one two" not in said


def test_the_end_of_the_input_leaves(files: list[Path]) -> None:
    assert talk(files[0]).exit_code == 0


def test_thinking_is_switched(files: list[Path]) -> None:
    result = talk(files[0], "/think 2", "one", "/think off", "/think", "/think soon")
    assert "thinking on, at most 2 tokens" in result.stderr
    assert "Considering the limited time" in result.stderr
    assert "thinking off\nthinking on\n" in result.stderr
    assert "/think: give nothing, on, off or a number" in result.stderr


def test_the_first_switch_ends_the_thinking_that_the_template_begins(files: list[Path]) -> None:
    result = talk(files[0], "one", "/think", "two", "/think")
    assert result.stderr.count("thinking off\n") == 1
    assert result.stderr.index("thinking off\n") < result.stderr.index("thinking on\n")


def test_a_line_goes_on_after_a_backslash(files: list[Path]) -> None:
    assert "user: one\ntwo\nassistant" in talk(files[0], "one\\", "two", "/history").stdout


def test_a_mistake_does_not_end_the_conversation(files: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "an image.png"
    bad.write_bytes(b"no image")
    result = talk(files[0], f"/image '{bad}'", "look", "/nope", "/image", "hello", "/history", "word " * 1500)
    assert result.exit_code == 0
    assert f"Error: {bad}: " in result.stderr
    assert "/nope: not a command" in result.stderr
    assert "/image: name a file or URL" in result.stderr
    assert "user: hello" in result.stdout
    assert "user: look" not in result.stdout
    assert "do not fit into a context of 1,024" in result.stderr


def test_ctrl_c_stops_the_answer_and_not_the_program(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    answer = model.Qwen35.chat
    interrupted = []

    def chat_once_interrupted(self, messages, **options):  # type: ignore[no-untyped-def]
        chunks = answer(self, messages, **options)
        if not interrupted:
            interrupted.append(True)
            yield next(chunks)
            chunks.close()
            raise KeyboardInterrupt
        yield from chunks

    monkeypatch.setattr(model.Qwen35, "chat", chat_once_interrupted)
    result = talk(files[0], "one", "two", "/history", arguments=("--no-think",))
    assert result.exit_code == 0, result.output
    assert "(stopped)" in result.stderr
    assert result.stdout.count("user: ") == 2


def test_a_server_answers_as_the_file_does(folder: Path) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    from qwen35_gguf.runtime.options import LoadOptions
    from qwen35_gguf.server.app import create_app
    from qwen35_gguf.server.models import Models
    from qwen35_gguf.server.settings import ServerSettings

    file = folder / "model.gguf"
    models = Models({"served": LoadOptions(file, n_ctx=1024, n_threads=1, draft=0)})
    pytest.importorskip("PIL.Image", reason="Pillow is not installed").new("RGB", (64, 64)).save(folder / "a.png")
    lines = ("Hello", f"/image {folder / 'a.png'}", "What is this?", "/quit")
    options = ("-n", "6", "--temp", "0", "--no-think")
    with serving(create_app(ServerSettings(api_keys=("k",)), models)) as server:
        for place in (server.url, f"{server.url}/v1", server.url.removeprefix("http://")):
            words = ["--url", place, "--api-key", "k", *options]
            result = CliRunner().invoke(chat.command, words, input="".join(line + "\n" for line in lines))
            assert result.exit_code == 0, result.output
            assert "served of" in result.stderr
            assert result.stdout == talk(file, *lines, arguments=("--no-think",)).stdout
        for words, message in (
            (["--url", server.url], "answers 401"),
            (["nothing", "--url", server.url, "--api-key", "k"], "'nothing' does not exist"),
            (["--url", server.url, "--ctx", "2k"], "--ctx has no effect with --url"),
            (["--url", "ftp://x"], "is not the URL of a server"),
            (["--url", "http://127.0.0.1:9"], "does not answer"),
            ([], "Missing argument 'FILE'"),
        ):
            result = CliRunner().invoke(chat.command, words, input="Hello\n")
            assert message in result.stderr
            assert "Traceback" not in result.stderr
