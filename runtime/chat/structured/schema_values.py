"""Check the values of keywords: numbers, counts, texts, patterns."""

from __future__ import annotations

import re
from typing import Any

from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured import patterns
from qwen35_gguf.runtime.chat.structured.schema_walk import Walk

MAX_NUMBER = 2**53  # the engine computes bounds in float64
MIN_NUMBER = 1e-6  # it writes numbers without exponents
MAX_EXACT = 10**15
MAX_COUNT = 10**6
# What releases of pydantic write for Decimal, whose look-ahead asks for a digit.
KNOWN_PATTERNS = {r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)$"}
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]")


def check_values(walk: Walk, value: Any, path: str, keyword: str) -> Any:
    """Check what an answer must be equal to, as a whole or inside; return it."""
    if isinstance(value, dict):
        for key, member in value.items():
            check_text(walk, key, path, keyword)
            check_values(walk, member, path, keyword)
    elif isinstance(value, list):
        for member in value:
            check_values(walk, member, path, keyword)
    elif isinstance(value, str):
        check_text(walk, value, path, keyword)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not _is_exact(value):
        raise walk.error(path, keyword, f"has the number {value!r}, which cannot be written exactly", "use a text")
    return value


def _is_exact(value: float) -> bool:
    if not MIN_NUMBER <= abs(value) <= MAX_EXACT:  # a larger one may be none of float's
        return value == 0
    digits = repr(float(value)).strip("-0.").replace(".", "")
    return len(digits) <= 15 and "e" not in digits


def check_text(walk: Walk, text: str, path: str, keyword: str) -> str:
    """Check a text that must come as it is; return it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise walk.error(path, keyword, "has half of a surrogate pair", "use whole characters") from None
    walk.result.has_control_characters |= bool(_CONTROL.search(text))
    return text


def check_names(walk: Walk, value: Any, path: str, keyword: str) -> list[str]:
    """Check a list of names of properties; return it."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise walk.error(path, keyword, "is not a list of names", "give one")
    return [check_text(walk, name, path, keyword) for name in value]


def check_pattern(walk: Walk, value: Any, path: str, keyword: str) -> str:
    """Check a regular expression; return it as the engine writes it."""
    if not isinstance(value, str):
        raise walk.error(path, keyword, "is not a text", "give a regular expression")
    if value in KNOWN_PATTERNS:
        return KNOWN_PATTERNS[value]
    try:
        return patterns.translate(check_text(walk, value, path, keyword))
    except GrammarError as error:
        raise walk.error(path, keyword, f"cannot be used ({error})", "write it without") from None


def check_number(walk: Walk, value: Any, path: str, keyword: str) -> float:
    """Check a number within the range in which the engine computes; return it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise walk.error(path, keyword, "is not a number", "give one")
    if abs(value) > MAX_NUMBER or 0 < abs(value) < MIN_NUMBER:
        limits = f"use 0, or {MIN_NUMBER} to {MAX_NUMBER} in magnitude"
        raise walk.error(path, keyword, f"is {value!r}, which is out of range", limits)
    return value


def check_count(walk: Walk, value: Any, path: str, keyword: str) -> int:
    """Check a count; return it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 0:
        raise walk.error(path, keyword, "is not a whole number from 0", "give one")
    if value > MAX_COUNT:
        raise walk.error(path, keyword, f"is {value}", f"use at most {MAX_COUNT}")
    return int(value)
