"""Every command has what all commands have in common."""

from __future__ import annotations

import click
import pytest

from qwen35_gguf.commands import discover
from qwen35_gguf.commands.verb import Verb

pytestmark = pytest.mark.unit

VERBS = [subcommand.verb for group in discover.groups() for subcommand in group.subcommands]


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_is_a_verb(verb: str) -> None:
    command = discover.load(verb)
    assert isinstance(command, Verb), f"{verb}: write @click.command({verb!r}, cls=Verb)"
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    assert all(isinstance(one, Verb) for one in inner)
