"""The model card, made again around what its publisher wrote.

The card is made in parts between `<!-- begin NAME -->` and `<!-- end NAME -->`. Text outside of them is written once
and then belongs to the publisher, and so does every key of the YAML front matter that was changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

PART = re.compile(r"(<!-- begin ([a-z-]+)\b[^>]*-->\n)(.*?)(<!-- end \2 -->)", re.DOTALL)
FRONT = re.compile(r"---\n(.*?\n)??---(?:\n|$)", re.DOTALL)
KEY = re.compile(r"(?P<key>[^\s#:-][^:\n]*):(?:\s|$)")
HINT = "made by `qwen35 package`; edit outside of these marks"


def part(name: str, text: str) -> str:
    """Enclose a part of the card in its marks."""
    return f"<!-- begin {name} ({HINT}) -->\n\n{text.strip()}\n\n<!-- end {name} -->"


def merge(current: str, new: str, before: str) -> str:
    """Make a card again: its parts are new, and everything else stays as it is.

    Args:
        current: the card as it is, edited or not.
        new: the card as it would be made now.
        before: the card as it was made the last time; "" if that is not known.

    """
    if current == before:
        return new
    parts = {found[2]: found[3] for found in PART.finditer(new)}
    body = PART.sub(lambda found: found[1] + parts.get(found[2], found[3]) + found[4], _body(current))
    return _merged_front(current, new, before) + body


def edited_parts(current: str, before: str) -> list[str]:
    """List the parts that were edited between their marks since the card was made, where it is known how."""
    made = {found[2]: found[3] for found in PART.finditer(before)}
    return [found[2] for found in PART.finditer(current) if made.get(found[2], found[3]) != found[3]]


def has_parts(card: str) -> bool:
    """Whether a card has parts that are made."""
    return PART.search(card) is not None


def _body(card: str) -> str:
    front = FRONT.match(card)
    return card[front.end() :] if front else card


def _merged_front(current: str, new: str, before: str) -> str:
    """Return the front matter with its marks; a key that was changed, added or removed by hand stays so."""
    if FRONT.match(current) is None:
        return ""
    mine, made, known = _keys(current), _keys(new), _keys(before)
    merged: dict[str, str] = {}
    for key, text in mine.items():
        if text != known.get(key):
            merged[key] = text
        elif key in made:
            merged[key] = made[key]
    merged |= {key: text for key, text in made.items() if key not in mine and key not in known}
    return f"---\n{''.join(merged.values())}---\n"


def _keys(card: str) -> Mapping[str, str]:
    """Split the front matter into its keys, each with all its lines; "" has what is before the first."""
    front = FRONT.match(card)
    found: dict[str, str] = {}
    key = ""
    for line in (front[1] or "").splitlines(keepends=True) if front else ():
        begun = KEY.match(line)
        key = begun["key"] if begun else key
        found[key] = found.get(key, "") + line
    return found
