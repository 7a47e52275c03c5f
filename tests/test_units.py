"""Sizes and durations: what people write is read exactly, and nothing else is read at all."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf import units
from qwen35_gguf.errors import Qwen35Error, UnitError

pytestmark = pytest.mark.unit

GB = 10**9
FACTORS = {"": 1, "k": 10**3, "M": 10**6, "g": GB, "T": 10**12, "Ki": 2**10, "mi": 2**20, "Gi": 2**30, "TI": 2**40}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GB", 16 * GB),
        ("8 GiB", 8 << 30),
        ("512m", 512 * 10**6),
        ("1.5g", 1_500_000_000),
        ("77", 77),
        ("77 b", 77),
        ("2kib", 2048),
        ("2Ki", 2048),
        (".5GB", GB // 2),
        ("2.GB", 2 * GB),
        ("  2TB ", 2 * 10**12),
        ("2.3GB", 2_300_000_000),  # 2.3 * 10**9 is less, in floating point
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "GB", "-1GB", "0", "0GB", "16XB", "1e3GB", "5ib", "nan", "inf", "1 2GB", "1_000", "٣GB", "0.5", "9" * 500],
)
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(UnitError) as caught:
        units.parse_size(text)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, Qwen35Error)


def test_the_limit_of_a_size_is_named() -> None:
    assert units.parse_size("1024TiB", units.MEMORY_LIMIT) == 1 << 50
    with pytest.raises(UnitError, match=r"'9999999TB' is not a size from 1 byte to 1,024 TiB"):
        units.parse_size("9999999TB", units.MEMORY_LIMIT)


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(FACTORS)), st.sampled_from(["", "b", "B"]))
def test_sizes_are_exact(whole: int, thousandths: int, unit: str, byte: str) -> None:
    expected = int((whole + Fraction(thousandths, 1000)) * FACTORS[unit])
    text = f"{whole}.{thousandths:03} {unit}{byte}"
    if expected:
        assert units.parse_size(text) == expected
    else:
        with pytest.raises(UnitError):
            units.parse_size(text)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_one_line(text: str) -> None:
    for parse in (units.parse_size, units.parse_duration, units.parse_length):
        try:
            assert parse(text) >= 0
        except UnitError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 - most, but not all of them raise


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("90", 90), ("5min", 300), ("5 m", 300), ("1h", 3600), ("1.5H", 5400), ("30sec", 30), (" 1 ", 1)],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5s", "3years", "inf", "nan", "1e2", "5 5s", "s"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(UnitError, match="is not a duration; write it as"):
        units.parse_duration(text)


@pytest.mark.parametrize("text", ["0", "0.5s", "25h", "9" * 400])
def test_the_limits_of_a_duration_are_named(text: str) -> None:
    with pytest.raises(UnitError, match="is not a duration from 1 s to 24 h"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "length"),
    [("4096", 4096), ("32k", 32768), ("32K", 32768), ("1M", 1 << 20), ("1.5k", 1536), ("16,384", 16384),
     (" 256 k ", 262144), ("1_000", 1000), ("0", 0)],
)  # fmt: skip
def test_lengths(text: str, length: int) -> None:
    assert units.parse_length(text) == length


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5", "0.0001k", "1e3", "32kb", "32 ki", "many", "1G", "٣", ",5"])
def test_what_is_not_a_length(text: str) -> None:
    with pytest.raises(UnitError, match="is not a length; write it as 4096, 32k or 1M"):
        units.parse_length(text)


@pytest.mark.parametrize(
    ("size", "sentence", "column", "scale"),
    [
        (0, "0 bytes", "0 bytes", (1.0, "B")),
        (999, "999 bytes", "999 bytes", (1.0, "B")),
        (1500, "2 kB", "1.5 kB", (1e3, "kB")),
        (999_000, "999 kB", "999.0 kB", (1e3, "kB")),
        (1_000_000, "1 MB", "1.0 MB", (1e6, "MB")),
        (512_000_000, "512 MB", "512.0 MB", (1e6, "MB")),
        (GB, "1.0 GB", "1,000.0 MB", (1e9, "GB")),
        (1_234_567_890_123, "1,234.6 GB", "1,234,567.9 MB", (1e9, "GB")),
    ],
)
def test_formats(size: int, sentence: str, column: str, scale: tuple[float, str]) -> None:
    assert units.format_size(size) == sentence
    assert units.format_file_size(size) == column
    assert units.scale(size) == scale
