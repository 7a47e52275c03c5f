"""The option of commands that read texts: `-f`, which may be repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def texts_option(what: str, *, default: str = "the packaged one") -> Decorator:
    """Make the option `-f`/`--text`, whose value is `texts`, a tuple of paths.

    Args:
        what: the texts are for, for the help.
        default: what is read without the option.

    """
    return click.option(
        "-f",
        "--text",
        "texts",
        type=click.Path(path_type=Path),
        multiple=True,
        help=f"{what}, or JSON Lines; may be repeated; by default {default}.",
    )
