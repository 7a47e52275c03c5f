"""Options that a command line gives, and those of them that would change nothing."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.core import ParameterSource

from qwen35_gguf.commands.names.option_names import TYPED, typed_spelling


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether a parameter was typed, and does not have its default."""
    return ctx.get_parameter_source(name) not in (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def refuse(ctx: click.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that would be ignored.

    Args:
        ctx: of the command.
        names: of its parameters.
        why: they would be, as `with --raw`.

    Raises:
        click.UsageError: one of them was given.

    """
    if found := next((name for name in names if is_given(ctx, name)), None):
        raise click.UsageError(f"{spelling(ctx, found)} has no effect {why}; leave it out", ctx)


def spelling(ctx: click.Context, name: str) -> str:
    """Return the spelling of an option that was typed."""
    option = next(one for one in ctx.command.params if one.name == name and isinstance(one, click.Option))
    return typed_spelling(option, ctx.meta.get(TYPED, ()))
