"""The front matter of a model card becomes texts, and never stops a conversion unless it is not YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from qwen35_gguf.convert.front_matter import read_front_matter
from qwen35_gguf.errors import CheckpointError

pytestmark = pytest.mark.unit


def read(directory: Path, **entries: Any) -> dict[str, Any]:
    (directory / "README.md").write_text(f"---\n{yaml.safe_dump(entries)}---\n# A model\n")
    return read_front_matter(directory)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"license": "apache-2.0", "tags": ["a", "b"]}, {"license": "apache-2.0", "tags": ["a", "b"]}),
        ({"language": ["en", False]}, {"language": ["en", "no"]}),
        ({"language": False}, {"language": "no"}),
        ({"version": 1.5, "name": 7}, {"version": "1.5", "name": "7"}),
        ({"license": ["mit", "gemma"]}, {"license": "mit, gemma"}),
        ({"tags": [1, None, {"a": 1}, float("nan"), True, "x"]}, {"tags": ["1", "x"]}),
        ({"author": {"a": 1}, "name": None, "tags": []}, {}),
    ],
)
def test_entries_become_texts(tmp_path: Path, entries: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read(tmp_path, **entries) == expected


def test_no_card_and_a_broken_one(tmp_path: Path) -> None:
    assert read_front_matter(tmp_path) == {}
    (tmp_path / "README.md").write_text("---\nname: [\n---\n")
    with pytest.raises(CheckpointError, match=r"README\.md: the front matter cannot be read") as error:
        read_front_matter(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "README.md").write_bytes(b"---\nname: \xff\n---\n")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_front_matter(tmp_path)


def test_numbers_that_python_does_not_write_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\nversion: 0x{'f' * 5000}\nname: a\n---\n")
    assert read_front_matter(tmp_path) == {"name": "a"}


def test_what_refers_to_itself_is_left_out(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)), "language: [en, *a59]"]
    (tmp_path / "README.md").write_text("\n".join(["---", *lines, "---", ""]))
    assert read_front_matter(tmp_path)["language"] == ["en"]
