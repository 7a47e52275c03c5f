"""Sizes as people write them: `2GB`, `500MB`, `2GiB`, `1.5G`."""

from __future__ import annotations

import re

import click

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def size(text: str | int) -> int:
    """Read an option's value, in bytes. Without a unit it is bytes; K, M, G and T are decimal, Ki and so on binary.

    Raises:
        click.BadParameter: it is no size.

    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", str(text).upper())
    value = int(float(found[1]) * UNITS[found[2] or ""]) if found else 0
    if value <= 0:
        raise click.BadParameter(f"{text!r} is not a size such as 2GB, 500MB or 2GiB")
    return value
