"""Old spellings of renamed options work, and are not shown."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from qwen35_gguf.cli import main
from qwen35_gguf.commands import discover
from qwen35_gguf.commands.names.aliases import RenamedOption, renamed_option

pytestmark = pytest.mark.unit


@click.command()
@renamed_option("--files", old=["--old-files"], is_flag=True, help="Write files.")
@renamed_option("--parity/--no-parity", old=["--equal/--no-equal"], default=None, help="Compare.")
@renamed_option("-s", "--size", old=["--bytes"], type=int, default=3, show_default=True, help="Bytes.")
def command(files: bool, parity: bool | None, size: int) -> None:
    """Print what was given."""
    click.echo(f"{files} {parity} {size}")


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ([], "False None 3"),
        (["--files", "--parity", "--size", "4"], "True True 4"),
        (["--old-files", "--equal", "--bytes", "4"], "True True 4"),
        (["--no-parity", "-s", "5"], "False False 5"),
        (["--no-equal"], "False False 3"),
    ],
)
def test_both_spellings_work(arguments: list[str], printed: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert (result.exit_code, result.output.strip()) == (0, printed)


def test_help_shows_the_new_spelling_alone() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert all(new in text for new in ("--files", "--parity / --no-parity", "-s, --size", "default: 3"))
    assert not any(old in text for old in ("old-files", "equal", "bytes "))


def test_no_command_shows_an_old_spelling() -> None:
    renamed = 0
    for group in discover.groups():
        for verb in (subcommand.verb for subcommand in group.subcommands):
            loaded = discover.load(verb)
            assert loaded is not None
            text = CliRunner().invoke(main, [verb, "--help"]).output.split()
            for option in loaded.params:
                if isinstance(option, RenamedOption):
                    renamed += 1
                    assert not option._old & set(text)
    assert renamed
