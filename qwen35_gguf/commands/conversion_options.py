"""The options of conversions that several commands share: adapters to be merged, rounding by second moments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def adapter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--adapter` and `--adapter-scale`: the values are `adapters` and `adapter_scales`."""
    command = click.option(
        "--adapter-scale",
        "adapter_scales",
        type=float,
        multiple=True,
        metavar="S",
        help="Weight of each --adapter, in their order; by default 1.",
    )(command)
    return click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="DIR",
        help="Merge a PEFT LoRA: a directory or a Hub id; may be repeated.",
    )(command)


def rounding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --rounding and --moments."""
    kind = click.option(
        "--rounding",
        type=click.Choice(["block", "full", "sequential"]),
        help="Round by second moments in 256 columns, the row, or layer after layer: less error; takes --moments.",
    )
    moments = click.option(
        "--moments", type=click.Path(path_type=Path), help="Second moments, made by `qwen35 imatrix --moments`."
    )
    return kind(moments(command))
