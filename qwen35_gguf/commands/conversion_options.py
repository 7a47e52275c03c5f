"""The options of conversions that several commands share: adapters to be merged, rounding by second moments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qwen35_gguf.quant.rounding.moments import Method


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


def rounding_options(*methods: Method) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --rounding with these methods, and --moments."""
    where = {"block": "in 256 columns", "full": "in the row", "sequential": "layer after layer"}
    listed = ", ".join(where[method] for method in methods[:-1]) + f" or {where[methods[-1]]}"
    method = click.option(
        "--rounding",
        type=click.Choice(methods),
        help=f"Round by second moments, {listed}: less error in the same bytes; takes --moments.",
    )
    moments = click.option(
        "--moments", type=click.Path(path_type=Path), help="Second moments, made by `qwen35 imatrix --moments`."
    )
    return lambda command: method(moments(command))
