"""The options of commands that merge PEFT adapters into a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def adapter_options(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--adapter` and `--adapter-scale`: the values are `adapters` and `adapter_scales`."""
    callback = click.option(
        "--adapter-scale",
        "adapter_scales",
        type=float,
        multiple=True,
        metavar="S",
        help="Weight of each --adapter, in their order; by default 1.",
    )(callback)
    return click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="DIR",
        help="Merge a PEFT LoRA: a directory or a Hub id; may be repeated.",
    )(callback)
