"""Paths over 255 bytes, which are files as any other, and paths over what the system allows, which are one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="other limits of paths")
PART = "d" * 200  # bytes of a folder's name; 255 are allowed
LONGEST_NAME = 255 - len(".gguf.part")  # of a file that is written under another name first


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path has more than 600 bytes, with a model in a file of the longest name."""
    folder = tmp_path_factory.mktemp("deep") / PART / PART / PART
    folder.mkdir(parents=True)
    hf_to_gguf.convert(TINY, "Q4_0", folder, vision=False)[0].rename(folder / f"{'m' * LONGEST_NAME}.gguf")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "{m}"),
        ("plan", "{m}", "--ctx", "1k"),
        ("lint", "{m}"),
        ("run", "{m}", "Hi", "-n", "1", "--no-think", "--ctx", "256", "--state-dir", "{}/states", "--no-profile"),
        ("metadata", "{m}", "set", "general.name", "x", "-o", "{}/" + "c" * LONGEST_NAME + ".gguf"),
        ("imatrix", "{m}", "-f", "{}/text.txt", "--chunk", "32", "--chunks", "1", "-o", "{}/i.gguf"),
        ("checksum", "{}", "--write", "--force"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_deep_folders_and_the_longest_names(deep: Path, arguments: tuple[str, ...]) -> None:
    (deep / "text.txt").write_text("What is a hash table? " * 40, encoding="utf-8")
    model = f"{deep}/{'m' * LONGEST_NAME}.gguf"
    result = run(*(one.replace("{m}", model).replace("{}", str(deep)) for one in arguments))
    assert result.exit_code in (0, 1), result.output
    assert "Traceback" not in result.output
    assert not list(deep.glob("*.part"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("split", "{m}", "-o", "{}/shards", "--max-shard-size", "3MB"),  # -00001-of-00002 is added
        ("metadata", "{m}", "set", "general.name", "0000000000000000"),  # .header.part is
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_name_that_leaves_no_room_for_more_is_one_line(deep: Path, arguments: tuple[str, ...]) -> None:
    model = deep / f"{'m' * LONGEST_NAME}.gguf"
    before = model.read_bytes()
    result = run(*(one.replace("{m}", str(model)).replace("{}", str(deep)) for one in arguments))
    assert result.exit_code == 2, result.output
    assert "File name too long" in result.stderr
    assert model.read_bytes() == before


# By a few bytes: 251 would be a name, but not of what is written first; 5,000 are more than a path may have.
@pytest.mark.parametrize("name", ["x" * 255 + ".gguf", "x" * 246 + ".gguf"])
@pytest.mark.parametrize("where", ["", PART + "/", (PART + "/") * 25], ids=["here", "deeper", "beyond any path"])
def test_names_that_are_too_long(deep: Path, tmp_path: Path, name: str, where: str) -> None:
    model, path = f"{deep}/{'m' * LONGEST_NAME}.gguf", f"{tmp_path}/{where}{name}"
    commands = [
        ("metadata", model, "set", "general.name", "x", "-o", path),
        ("inspect", path),
        ("run", path, "Hi", "--no-profile"),
        ("convert", path, "-q", "Q4_0"),
        ("imatrix", model, "-o", path),
    ]
    if len(name) > 255 or len(where) > 300:
        commands += [
            ("run", model, "Hi", "-n", "1", "--no-profile", "--state-dir", path),
            ("convert", str(TINY), "-q", "Q4_0", "-o", path),
        ]
    for arguments in commands:
        result = run(*arguments)
        assert result.exit_code == 2, (arguments[0], result.output, result.exception)
        assert "Traceback" not in result.output
        assert result.stderr.count("Error: ") == 1
    assert not list(tmp_path.rglob("*.part"))
