"""What the command prints and how it exits, for `--help` and for mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from oracles.paths import ROOT
from qwen35_gguf import __version__, cli, progress
from qwen35_gguf.commands import discover
from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.errors import CheckpointError


@pytest.fixture(autouse=True)
def _bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.gguf").write_bytes(b"not a model")
    Path("short.gguf").write_bytes(b"GGUF\x03\0\0\0")
    key = b"general.architecture"
    head = (
        b"GGUF"
        + (3).to_bytes(4, "little")
        + bytes(8)
        + (1).to_bytes(8, "little")
        + len(key).to_bytes(8, "little")
        + key
    )
    for name in ("clip", "qwen35"):
        value = (8).to_bytes(4, "little") + len(name).to_bytes(8, "little") + name.encode()
        Path(f"{name}.gguf").write_bytes(head + value)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, ["chat ", "convert ", "run ", "verify ", "Qwen3.5"]),
        (["-h"], 0, ["Usage: qwen35"]),
        (["--version"], 0, [f"qwen35, version {__version__}"]),
        (["konvert"], 2, ["Error: No such command 'konvert'"]),
        (["--frobnicate"], 2, ["Error: No such option"]),
        (["run", "--help"], 0, ["--no-think", "--raw", "--seed", "--ctx"]),
        (["run"], 2, ["Missing argument 'FILE'"]),
        (["run", "absent.gguf", "Hello"], 2, ["Error: absent.gguf: No such file", "qwen35 convert"]),
        (["run", ".", "Hello"], 2, ["Error: .: Is a directory"]),
        (["run", "text.gguf", "Hello"], 2, ["Error: text.gguf: is not a GGUF file"]),
        (["run", "short.gguf", "Hello"], 2, ["Error: short.gguf: the GGUF header is truncated"]),
        (["run", "clip.gguf", "Hello"], 2, ["Error: clip.gguf: is a vision encoder (mmproj)"]),
        (["run", "qwen35.gguf", "Hello"], 2, ["Error: qwen35.gguf: has no qwen35.context_length"]),
        (["run", "qwen35.gguf", "Hello", "-n", "0"], 2, ["Invalid value for '-n'"]),
    ],
)
def test_exit_codes_and_text(arguments: list[str], code: int, words: list[str]) -> None:
    result = CliRunner().invoke(cli.main, arguments, prog_name="qwen35")
    assert [word for word in words if word not in result.output] == [], result.output
    assert result.exit_code == code
    if "Usage" not in result.output and code == 2:
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""


@pytest.mark.unit
def test_help_imports_nothing_heavy() -> None:
    heavy = {"numpy", "gguf", "llama_cpp", "huggingface_hub", "rich"}
    code = (
        "import sys; from qwen35_gguf import cli; cli.main(['--help'], standalone_mode=False); "
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


SUBCOMMANDS = [subcommand for group in discover.groups() for subcommand in group.subcommands]


@pytest.mark.unit
@pytest.mark.parametrize("subcommand", SUBCOMMANDS, ids=lambda subcommand: subcommand.verb)
def test_every_subcommand_has_help_and_its_line_in_the_list(subcommand: discover.Subcommand) -> None:
    result = CliRunner().invoke(cli.main, [subcommand.verb, "--help"])
    assert result.exit_code == 0, result.output
    assert f"Usage: main {subcommand.verb} " in result.stdout
    assert subcommand.help.endswith(".")
    assert f"  {subcommand.verb} " in CliRunner().invoke(cli.main, ["--help"]).stdout


@pytest.mark.parametrize(("old", "verb"), discover.RENAMED.items())
def test_a_renamed_command_is_found_by_its_old_verb_and_not_shown(old: str, verb: str) -> None:
    assert discover.load(old) is discover.load(verb)
    assert discover.load(verb) is not None
    assert f"  {old} " not in CliRunner().invoke(cli.main, ["--help"]).stdout


@pytest.mark.unit
def test_no_verb_is_found_twice() -> None:
    verbs = [subcommand.verb for subcommand in SUBCOMMANDS]
    assert len(verbs) == len(set(verbs))
    assert len(verbs) > 15


@pytest.mark.unit
@pytest.mark.parametrize("verb", ["absent", "__init__", "../discover", "run.run", ""])
def test_what_is_not_a_verb_is_not_loaded(verb: str) -> None:
    assert discover.load(verb) is None


@pytest.mark.unit
def test_a_new_file_is_a_new_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for group in discover.GROUPS:
        (tmp_path / group).mkdir()
        (tmp_path / group / "__init__.py").write_text(f'"""The group {group}."""', encoding="utf-8")
    (tmp_path / "files" / "count_rows.py").write_text('"""Count rows.\n\nMore."""', encoding="utf-8")
    monkeypatch.setattr(discover, "_FOLDER", tmp_path)
    found = {group.title: [(verb, line) for verb, _, line in group.subcommands] for group in discover.groups()}
    assert found["The group files"] == [("count-rows", "Count rows.")]
    assert found["The group run"] == []


@pytest.mark.unit
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CheckpointError("config.json: is missing"), 2, "Error: config.json: is missing\n"),
        (CheckpointError("a\nb: is missing"), 2, "Error: a b: is missing\n"),
        (KeyboardInterrupt(), 130, "Interrupted\n"),
    ],
)
def test_errors_are_reported_on_one_line(error: BaseException, code: int, text: str) -> None:
    @click.command()
    @reports_errors
    def failing() -> None:
        raise error

    result = CliRunner().invoke(failing)
    assert (result.exit_code, result.stderr, result.stdout) == (code, text, "")


@pytest.mark.unit
def test_a_bug_keeps_its_traceback() -> None:
    @click.command()
    @reports_errors
    def failing() -> None:
        raise ZeroDivisionError

    assert isinstance(CliRunner().invoke(failing).exception, ZeroDivisionError)


@pytest.mark.unit
def test_progress_without_a_terminal_is_eleven_lines_at_most(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "DELAY", 0)
    with progress.progress(3_000_000_000, "converting") as advance:
        for _ in range(300):
            advance(10_000_000)
        progress.say("[note] 100% of it")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:-1]] == [f"converting: {10 * i} %" for i in range(11)]
    assert ", 1.2 of 3.0 GB, " in lines[4]
    assert " s left" in lines[4]
    assert lines[-1] == "[note] 100% of it"


@pytest.mark.unit
def test_progress_of_nothing_and_of_more_than_promised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "DELAY", 0)
    with progress.progress(0, "empty") as advance:
        advance(0)
    with progress.progress(10, "short") as advance:
        advance(25)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "empty: 100 %, 0.0 of 0.0 B"
    assert lines[1] == "short: 0 %, 0.0 of 10.0 B"
    assert lines[2].startswith("short: 100 %, 25.0 of 10.0 B")


@pytest.mark.unit
def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    console = progress.Console(stderr=True, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "_console", console)
    monkeypatch.setattr(progress, "DELAY", 0)
    with progress.progress(4_000_000, "[converting]") as advance:
        advance(4_000_000)
        progress.say("a note")
    text = capsys.readouterr().err
    assert "a note" in text
    assert "100%" in text
    assert "4.0/4.0 MB" in text


@pytest.mark.unit
@pytest.mark.parametrize("terminal", [False, True])
def test_short_work_and_silent_work_show_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    console = progress.Console(stderr=True, force_terminal=terminal, width=120)
    monkeypatch.setattr(progress, "_console", console)

    def work() -> None:
        with progress.progress(4_000_000, "bytes") as advance:
            advance(4_000_000)
        with progress.steps() as bar:
            progress.counted(bar, "steps")(3, 3)

    work()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "DELAY", 0)
    with progress.silent():
        work()
        progress.say("a note")
    assert capsys.readouterr().err == ""
    work()
    text = capsys.readouterr().err
    assert "bytes" in text
    assert "steps" in text


def test_doctor_says_what_is_installed() -> None:
    result = CliRunner().invoke(cli.main, ["doctor"])
    assert result.exit_code == 0, result.output
    for word in ("package", "processor", "kernels", "portable", "llama-cpp-python 0.3.36", "device      CPU"):
        assert word in result.output
    patches = sorted((ROOT / "patches").glob("[0-9]*.patch"))
    if ", patched" in result.output:
        assert any(file.stem in result.output for file in patches)
    else:
        assert "engine-stock" in CliRunner().invoke(cli.main, ["doctor", "--json"]).output


def test_the_package_is_a_program_as_well() -> None:
    command = [sys.executable, "-m", "qwen35_gguf", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"qwen35, version {__version__}\n"
    )
