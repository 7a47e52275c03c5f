"""Texts of files and models on a terminal: nothing but colours controls it; in a pipe they are as they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oracles.paths import ROOT
from qwen35_gguf.commands.output import escaped

ATTACK = "a\x1b]0;title\x07b\x9b2Jc\x1b[2Kd\x08f"
SHOWN = r"a\x1b]0;title\x07b\x9b2Jc\x1b[2Kd\x08f"
PROGRAM = (sys.executable, "-c", "from qwen35_gguf.cli import main; main()")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")


def test_what_passes_and_what_does_not() -> None:
    assert escaped(ATTACK) == SHOWN
    for text in ("a\tb\nc\r\n", "\x1b[1;31mred\x1b[0m", "\u200d é \u202e", ""):
        assert escaped(text) == text
    assert escaped("all\rno") == r"all\rno"  # which a terminal would show as "nol"
    assert escaped("\x1b") == r"\x1b"  # the beginning of a colour that comes in two pieces
    assert escaped("\x1b[31") == r"\x1b[31"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {ATTACK}\n", encoding="utf-8", newline="")
    return tmp_path


def printed(*arguments: str) -> str:
    """What a command writes on a terminal, its errors too."""
    terminal, other = os.openpty()
    command = [*PROGRAM, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200"}
    found = b""
    with subprocess.Popen(command, stdout=other, stderr=other, env=environment):
        os.close(other)
        try:
            while part := os.read(terminal, 1 << 16):
                found += part
        except OSError:  # the other side is closed
            pass
        os.close(terminal)
    return found.decode().replace("\r\n", "\n")


def test_names_of_a_download(folder: Path) -> None:
    assert printed("checksum", str(folder)) == f"{SHOWN}: is missing\n"
    piped = subprocess.run(
        [*PROGRAM, "checksum", str(folder)],
        capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert piped.stdout.decode() == f"{ATTACK}: is missing\n".replace("\x1b[2K", "")  # which click leaves out


def test_messages_of_errors(folder: Path) -> None:
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  ../{ATTACK}\n")
    found = printed("checksum", str(folder))
    assert found.startswith("Error: ")
    assert f"names '../{SHOWN}', outside of the folder" in found


def test_values_of_a_header(tmp_path: Path) -> None:
    from qwen35_gguf.gguf_file.keyvalue import STRING, KeyValue
    from qwen35_gguf.gguf_file.writer import write_gguf

    path = tmp_path / "a.gguf"
    entries = [KeyValue.of("general.architecture", "qwen35", STRING), KeyValue.of("general.name", ATTACK, STRING)]
    write_gguf(path, entries, [])
    for command in ("inspect", "metadata"):
        found = printed(command, str(path))
        assert "\x07" not in found
        assert "\x9b" not in found
        assert "\x1b]" not in found
        assert "\x1b[2K" not in found
