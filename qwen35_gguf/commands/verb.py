"""What every command has in common: `--quiet`, `--json`, and options that are given once.

A command is made with `@click.command("name", cls=Verb)`, a group of commands with `cls=VerbGroup`.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import click

from qwen35_gguf import progress
from qwen35_gguf.commands import output
from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.commands.names.foreign_names import advised
from qwen35_gguf.commands.names.option_names import TYPED, typed_spelling

COMMON = ("--json", "--quiet")


class Verb(click.Command):
    """A command with the options that all have."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        """Declare the command, and `--json` and `--quiet` after its own options."""
        super().__init__(*arguments, **attributes)
        self.params += _common_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; an option that takes one value is refused the second time."""
        ctx.meta[TYPED] = (*ctx.meta.get(TYPED, ()), *args)
        _refuse_repeated(self, ctx, list(args))
        typed = list(args)
        try:
            left = super().parse_args(ctx, args)
            _refuse_infinite(self, ctx)
            return left
        except click.UsageError as error:
            raise advised(error, typed, self) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, silent if it is called with --quiet."""
        with progress.silent(output.is_quiet(ctx)), output.library_notes():
            return reports_errors(super().invoke)(ctx)


class VerbGroup(Verb, click.Group):
    """A group of commands, which also are of `Verb`."""

    command_class = Verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; the common options may also follow those of the group."""
        end = next((number for number, word in enumerate(args) if number and word in self.commands), len(args))
        common = [word for word in args[:end] if word in COMMON]
        own = [word for word in args[:end] if word not in COMMON]
        return super().parse_args(ctx, [*common, *own, *args[end:]])


def _common_options() -> list[click.Option]:
    return [
        click.Option(["--json"], is_flag=True, expose_value=False, callback=output.set_json, help="Print JSON."),
        click.Option(
            ["--quiet"],
            is_flag=True,
            expose_value=False,
            callback=output.set_quiet,
            help="No progress, notes or advice: results and errors only.",
        ),
    ]


def _refuse_infinite(command: click.Command, ctx: click.Context) -> None:
    """Refuse nan and infinities, which click's ranges accept.

    Raises:
        click.BadParameter: with the name of the option.

    """
    for param in command.params:
        given = ctx.params.get(param.name or "")
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, float) and not math.isfinite(value):
                raise click.BadParameter(f"{value} is not a number that can be used.", ctx, param)


def _refuse_repeated(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    """Refuse an option whose earlier value would be ignored.

    Raises:
        click.UsageError: with the name of the option.

    """
    try:
        order = command.make_parser(ctx).parse_args(list(args))[2]
    except click.UsageError:
        return  # reported by the parser that counts
    if any(one.is_eager for one in order):
        return
    for option, count in Counter(one for one in order if isinstance(one, click.Option)).items():
        same = option.is_flag and not option.secondary_opts  # the same switch again changes nothing
        if count > 1 and not (option.multiple or option.count or same):
            raise click.UsageError(f"{typed_spelling(option, args)} is given {count} times; give it once", ctx)
