"""Remember what was found of texts, without the texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")

MOST = 1 << 14


class ByDigest(Generic[Found]):
    """A function of a text that is called once for each: the tools of a conversation come with every request."""

    def __init__(self, function: Callable[[str], Found]) -> None:
        """Take the function; what it raises is not remembered."""
        self._function, self.__doc__ = function, function.__doc__
        self._found: dict[bytes, Found] = {}

    def __call__(self, text: str) -> Found:
        """Return what the function does."""
        digest = hashlib.sha256(text.encode()).digest()
        try:
            return self._found[digest]  # other threads may clear it at any time
        except KeyError:
            found = self._function(text)
        if len(self._found) >= MOST:
            self._found.clear()
        self._found[digest] = found
        return found
