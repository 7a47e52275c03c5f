"""Sizes, durations and lengths: read as people write them, and written for people."""

from __future__ import annotations

import re
from decimal import Decimal

from qwen35_gguf.errors import UnitError

MEMORY_LIMIT = 1 << 50  # a petabyte: no machine has more memory
DAY = 86400.0
LONGEST = 1 << 62  # tokens

_SIZE = re.compile(r"\s*(?P<number>\d+\.?\d*|\.\d+)\s*(?P<unit>(?:[kmgt]i?)?)b?\s*", re.IGNORECASE | re.ASCII)
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_DURATION = re.compile(r"\s*(?P<number>\d+\.?\d*|\.\d+)\s*(?P<unit>s|sec|m|min|h|)\s*", re.IGNORECASE | re.ASCII)
_SECONDS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_LENGTH = re.compile(r"\s*(?P<number>\d[\d,_]*(?:\.\d+)?)\s*(?P<unit>[km]?)\s*", re.IGNORECASE | re.ASCII)
_LENGTHS = {"": 1, "k": 2**10, "m": 2**20}
_SCALES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def parse_size(text: str, largest: int = 1 << 63) -> int:
    """Read a size in bytes: 2GB, 500 MB, 8GiB, 1.5g.

    K, M, G and T are powers of 1000, Ki, Mi, Gi and Ti powers of 1024; a number alone is bytes.

    Raises:
        UnitError: the text is not a size, or one that is not from 1 byte to `largest`.

    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UnitError(f"{text!r} is not a size; write it as 16GB, 8GiB or 512MB")
    size = Decimal(found["number"]) * _SIZES[found["unit"].lower()]
    if not 1 <= size <= largest:
        raise UnitError(f"{text!r} is not a size from 1 byte to {largest >> 40:,} TiB")
    return int(size)


def parse_duration(text: str, least: float = 1.0, most: float = DAY) -> float:
    """Read a duration in seconds: 90s, 5min, 1.5h; a number alone is seconds.

    Raises:
        UnitError: the text is not a duration, or one that is not from `least` to `most` seconds.

    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UnitError(f"{text!r} is not a duration; write it as 90s, 5min or 1h")
    seconds = float(found["number"]) * _SECONDS[found["unit"].lower()]
    if not least <= seconds <= most:
        raise UnitError(f"{text!r} is not a duration from {least:g} s to {most / 3600:g} h")
    return seconds


def parse_length(text: str) -> int:
    """Read a length in tokens: 4096, 4,096, 32k, 1M; k and M are powers of 1024, as contexts are named.

    Raises:
        UnitError: the text is not a length.

    """
    found = _LENGTH.fullmatch(text)
    length = (
        Decimal(found["number"].replace(",", "").replace("_", "")) * _LENGTHS[found["unit"].lower()] if found else 0
    )
    if found is None or length > LONGEST or length != int(length):
        raise UnitError(f"{text!r} is not a length; write it as 4096, 32k or 1M")
    return int(length)


def format_size(n_bytes: float) -> str:
    """Write a size for a sentence: `12.3 GB`, below a gigabyte `512 MB`, small ones `12 kB` or `7 bytes`."""
    if n_bytes >= 1e9:
        return f"{n_bytes / 1e9:,.1f} GB"
    return f"{n_bytes / 1e6:,.0f} MB" if n_bytes >= 1e6 else _small(n_bytes, 0)


def format_file_size(n_bytes: float) -> str:
    """Write a size for a column of files, which compares at one glance: `1,234.5 MB`, small ones `12.3 kB`."""
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 1e6 else _small(n_bytes, 1)


def _small(n_bytes: float, digits: int) -> str:
    return f"{n_bytes / 1e3:,.{digits}f} kB" if n_bytes >= 1e3 else f"{n_bytes:,.0f} bytes"


def scale(n_bytes: float) -> tuple[float, str]:
    """Return the divisor and the unit, from B to GB, in which a size is at least 1."""
    return next(((divisor, unit) for divisor, unit in _SCALES if n_bytes >= divisor), _SCALES[-1])
