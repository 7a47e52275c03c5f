"""Options that were renamed: the old spelling still works for one version, and no help text shows it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class RenamedOption(click.Option):
    """An option with old spellings that its help leaves out."""

    def __init__(self, declarations: Sequence[str], *, old: Sequence[str], **attributes: Any) -> None:
        """Declare the option; `old` is written as declarations are: "--name", or "--name/--no-name" for a pair."""
        super().__init__([*declarations, *old], **attributes)
        self._old = {spelling for declaration in old for spelling in declaration.split("/")}

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the lines of `--help`, without the old spellings."""
        shown = copy.copy(self)
        shown.opts = [name for name in self.opts if name not in self._old]
        shown.secondary_opts = [name for name in self.secondary_opts if name not in self._old]
        return click.Option.get_help_record(shown, ctx)


def renamed_option(*declarations: str, old: Sequence[str], **attributes: Any) -> Callable[[F], F]:
    """Declare an option as `click.option` does, with old spellings as hidden aliases.

    Args:
        declarations: the new spelling, first: it names the argument of the command.
        old: spellings of earlier versions, as declarations.
        attributes: of `click.option`.

    """
    return click.option(*declarations, cls=RenamedOption, old=old, **attributes)
