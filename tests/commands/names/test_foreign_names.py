"""Names of other programs: the message says what to type here."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from qwen35_gguf.cli import main
from qwen35_gguf.commands import discover
from qwen35_gguf.commands.names.foreign_names import COMMANDS, OPTIONS


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    return result.stderr.splitlines()[-1]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "likely"),
    [("quantize", "convert"), ("server", "serve"), ("list", "models"), ("rm", "models rm"), ("convertt", "convert")],
)
def test_of_an_unknown_command_the_one_that_is_meant_is_named(name: str, likely: str) -> None:
    assert refused(name) == f"Error: No such command '{name}'; did you mean `qwen35 {likely}`?"


@pytest.mark.unit
def test_an_unknown_command_that_is_like_none_and_help() -> None:
    assert refused("xyzzy") == "Error: No such command 'xyzzy'"
    assert refused("help") == "Error: No such command 'help'; try `qwen35 --help`"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("typed", "here"),
    [
        ("run f hi -c 2048", "'-c'; here it is --ctx"),
        ("run f hi -ngl 20", "'-ngl'; here it is --gpu-layers"),  # which click reads as `-n gl`
        ("run f hi -ctk q8_0", "'-ctk'; here it is --kv-type"),
        ("run -m f hi", "'-m'; here it is the argument FILE, without an option"),
        ("run f -p hi", "'-p'; here it is the argument PROMPT, without an option"),
        ("imatrix -m f -o x", "'-m'; here it is the argument MODEL, without an option"),
        ("serve f --max-model-len 4096", "'--max-model-len'; here it is --ctx"),
        ("convert x --outtype q8_0", "'--outtype'; here it is --quant"),
    ],
)
def test_of_another_programs_option_the_name_here_is_given(typed: str, here: str) -> None:
    assert refused(*typed.split()).startswith(f"Error: No such option {here}")


@pytest.mark.unit
def test_of_an_option_that_a_command_has_nothing_for_click_tells() -> None:
    """Converting has no temperature. Versions of click write the name differently."""
    message = refused("convert", "x", "--temperature", "1")
    assert "--temperature" in message
    assert "here it is" not in message


@pytest.mark.unit
def test_every_name_that_is_recommended_exists() -> None:
    verbs = [one.verb for group in discover.groups() for one in group.subcommands]
    commands = [command for verb in verbs if (command := discover.load(verb))]
    spellings = {
        spelling for command in commands for one in command.params for spelling in (*one.opts, *one.secondary_opts)
    }
    arguments = {"FILE", "MODEL", "PROMPT"}
    assert {likely.split()[0] for likely in COMMANDS.values()} <= set(verbs)
    assert not set(COMMANDS) & set(verbs)
    assert {here for known in OPTIONS.values() for here in known} <= spellings | arguments
