"""Keep what is known of the prompts of one client from those of another: prompts of two scopes share no prefix.

Prefixes are compared from their first item on. So it is enough that this one names the scope: everything that compares
sequences, in the context, in memory and on disk, then finds that they differ in the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

Item = int | str  # a token, or the hash of an image

SEPARATOR = "\x1f"


def in_scope(items: Sequence[Item], scope: str | None) -> list[Item]:
    """Return the items of a prompt as they are compared; without a scope as they are."""
    if scope is None or not items:
        return list(items)
    return [f"{scope}{SEPARATOR}{items[0]}", *items[1:]]


def scope_of(items: Sequence[Item]) -> str | None:
    """Return the scope of a sequence; None: it has none."""
    first = items[0] if items else None
    return first.partition(SEPARATOR)[0] if isinstance(first, str) and SEPARATOR in first else None
