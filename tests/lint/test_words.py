"""The check of words: each entry of words.yaml catches its examples, and lets ordinary uses pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import words

pytestmark = pytest.mark.unit

WORDS = words.load()


def found(folder: Path, name: str, text: str) -> list[str]:
    (folder / name).write_text(text, encoding="utf-8")
    return [f"{finding.line} {finding.word}" for finding in words.check(name, WORDS, folder)]


@pytest.mark.parametrize("phrase", WORDS.phrases, ids=lambda phrase: phrase.write)
def test_each_pattern_catches_its_examples_and_no_others(phrase: words.Phrase) -> None:
    assert phrase.catches
    assert [text for text in phrase.catches if not phrase.pattern.search(text)] == []
    assert [text for text in phrase.passes if phrase.pattern.search(text)] == []


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("a.py", '"""The tower."""\n', ["1 tower"]),
    ("a.py", "x = 1  # at\n", []),
    ("a.py", "x = 1\n# all of it is read at\n# once\n", ["2 at\n# once"]),
    ("a.py", 'raise E(\n    f"{x}: is no "\n    f"size"\n)\n', ["2 is no size"]),
    ("a.py", "the_trunk = 1\nuse(the_trunk)\n", ["1 the_trunk"]),
    ("a.py", "class TrunkState: ...\n", ["1 TrunkState"]),
    ("a.py", "pool(max_workers=2)\n", []),
    ("a.h", "int tower = 1;\n", ["1 tower"]),
    ("a.h", "// what goes\n// on\nint x;\n", ["1 goes on"]),
    ("a.h", 'fail("has to be 8");\n', ["1 has to be"]),
    ("a.md", "# Title\n\nIt has\nto be.\n", ["3 has to be"]),
    ("a.md", "```\nthe tower\n```\n`tower` [x](tower.md)\n", []),
    ("a.patch", "A trunk\n---\n\ndiff --git a/b b/b\n-// at once\n+// so many\n", ["1 trunk", "6 so many"]),
    ("Makefile", "run:  ## run at once\n", ["1 at once"]),
    ("my_tower.py", "", ["1 tower"]),
    ("a.bin", "tower", []),
])  # fmt: skip
def test_prose_names_and_file_names_are_searched(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    assert found(tmp_path, name, text) == [" ".join(text.replace("# ", "").split()) for text in expected]


def test_the_message_names_the_line_and_the_word_to_write(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("A\ntower\n", encoding="utf-8")
    done = subprocess.run([sys.executable, words.__file__, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == f'{file}:2: "tower": write "vision encoder (its file is the mmproj)"\n'
