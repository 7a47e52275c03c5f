"""Files of grammars and JSON schemas with odd contents, or that are no files: text, or one line."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from faults.paths.odd_files import ODD_FILES

from qwen35_gguf.cli import main
from qwen35_gguf.commands import given_texts
from qwen35_gguf.commands.given_texts import read_rules
from qwen35_gguf.errors import GrammarError

WHOLE = {"--grammar": b'root ::= "a"', "--json-schema": b'{"type": "null"}'}
# Name: what is made of a whole file, and whether it is a whole one.
CONTENTS: dict[str, tuple[bytes, bytes, bool]] = {
    "a byte order mark": (b"\xef\xbb\xbf", b"", True),
    "line ends of Windows": (b"", b"\r\n", True),
    "empty lines": (b"\n\n", b"\n\n", True),
    "two byte order marks": (b"\xef\xbb\xbf" * 2, b"", False),
    "UTF-16": ("\ufeff".encode("utf-16-le"), b"\0", False),
    "bytes": (bytes(range(256)), b"", False),
    "Latin 1": (b"\xfc", b"", False),
    "half a character": (b"", b"\xc3", False),
    "a page of Windows": (b"", b"\x1a", False),
    "too large": (b"\n" * (given_texts.LARGEST_RULES + 1), b"", False),
}


def run(model: Path, option: str, path: Path) -> Result:
    short = ("-n", "4", "--ctx", "256", "--no-think", "--threads", "1", "--temp", "0")
    return CliRunner().invoke(main, ["run", str(model), "Hi", *short, option, str(path)])


def refused(result: Result) -> str:
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 2000
    return result.stderr


@pytest.mark.parametrize("option", WHOLE)
@pytest.mark.parametrize("name", CONTENTS)
def test_odd_contents(files: list[Path], tmp_path: Path, option: str, name: str) -> None:
    before, after, whole = CONTENTS[name]
    path = tmp_path / "rules"
    path.write_bytes(before + WHOLE[option] + after)
    result = run(files[0], option, path)
    if whole:
        assert (result.exit_code, result.stdout.strip()) == (0, "a" if option == "--grammar" else "null"), result.stderr
    else:
        refused(result)


@pytest.mark.parametrize("option", WHOLE)
@pytest.mark.parametrize("kind", [*ODD_FILES, "empty", "missing"])
def test_what_is_not_a_file(files: list[Path], tmp_path: Path, option: str, kind: str) -> None:
    path = tmp_path / "rules"
    if kind != "missing":
        ODD_FILES.get(kind, Path.touch)(path)
    refused(run(files[0], option, path))


GRAMMARS = {
    "left recursion": (b'root ::= root "a" | "a"', True),
    "hidden left recursion": (b'root ::= e root\ne ::= ""', False),
    "rules of each other": (b"root ::= b\nb ::= root", False),
    "deep": (b"root ::= " + b"(" * 50_000 + b'"a"' + b")" * 50_000, False),
    "open": (b"root ::= " + b"(" * 100_000, False),
    "a long text": (b'root ::= "' + b"a" * 200_000 + b'"', None),
    "many rules": (b"".join(b'r%d ::= "a"\n' % number for number in range(20_000)) + b"root ::= r1", None),
    "half a surrogate": (b'root ::= "\\uD800"', None),
    "no character": (b'root ::= "\\U00110000"', False),
}


@pytest.mark.parametrize("name", GRAMMARS)
def test_odd_grammars(files: list[Path], tmp_path: Path, name: str) -> None:
    text, accepted = GRAMMARS[name]
    (tmp_path / "rules").write_bytes(text)
    result = run(files[0], "--grammar", tmp_path / "rules")
    if result.exit_code or accepted is False:
        assert accepted is not True, result.stderr
        refused(result)


SCHEMAS = {
    "open": b'{"items":' * 100_000,
    "deep": b'{"items":' * 5000 + b"{}" + b"}" * 5000,
    "not a number": b'{"const": NaN}',
    "too large a number": b'{"const": 1e999}',
    "too many digits": b'{"const": ' + b"9" * 100_000 + b"}",
    "half a surrogate": b'{"const": "\\ud800"}',
    "a list": b"[]",
    "true": b"true",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_odd_schemas(files: list[Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "rules").write_bytes(SCHEMAS[name])
    refused(run(files[0], "--json-schema", tmp_path / "rules"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_read(tmp_path: Path) -> None:
    """As of `--grammar <(...)`."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"abc"))
    writer.start()
    assert read_rules(tmp_path / "pipe", "a grammar") == "abc"
    writer.join()


def test_a_file_of_the_largest_size(tmp_path: Path) -> None:
    (tmp_path / "rules").write_bytes(b"a" * given_texts.LARGEST_RULES)
    assert len(read_rules(tmp_path / "rules", "a grammar")) == given_texts.LARGEST_RULES
    (tmp_path / "rules").write_bytes(b"a" * (given_texts.LARGEST_RULES + 1))
    with pytest.raises(GrammarError, match="is larger than 1 MiB; simplify it"):
        read_rules(tmp_path / "rules", "a grammar")


@pytest.mark.parametrize("arguments", [["run", "{}", "-"], ["chat", "{}"]])
def test_a_text_without_end_is_refused(folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_texts, "LARGEST_PROMPT", 1000)
    given = [one.replace("{}", str(folder / "model.gguf")) for one in arguments]
    done = CliRunner().invoke(main, [*given, "--ctx", "256"], input="a" * 1001)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == "Error: stdin: has a text of more than 1,000 characters; shorten it"


def test_lines_of_a_pipe_are_read_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo\r\nthree"))
    assert [given_texts.read_line("") for _ in range(4)] == ["one", "", "two\r", "three"]
    with pytest.raises(EOFError):
        given_texts.read_line("")
