"""Tell tags apart from text that spells them: a tag is a token of its own.

In the text that the parsers read, a tag's token is one character that decoded text never has, a lone surrogate. Only a
file whose vocabulary has no token for a tag spells it with ordinary tokens: there the spelled tag counts.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping

from qwen35_gguf.architecture.tags import TAGS

MARKS = {tag: chr(0xDC00 + number) for number, tag in enumerate(TAGS)}
_SPELLINGS = {ord(mark): tag for tag, mark in MARKS.items()}


def spelled(text: str) -> str:
    """Write marks as the tags that they stand for."""
    return text.translate(_SPELLINGS)


def marked(text: str, tags: Iterable[str] = TAGS) -> str:
    """Replace each of `tags` in a text by its mark."""
    for tag in tags:
        text = text.replace(tag, MARKS[tag])
    return text


class TagDecoder:
    """Turns the bytes of tokens into text with marks.

    A character that is split over tokens arrives whole; invalid and truncated ones are left out.
    """

    def __init__(self, tokens: Mapping[int, str]) -> None:
        """Take the tags by the id of their token; those that are missing are found by their text."""
        self._marks = {token: MARKS[tag] for token, tag in tokens.items()}
        missing = [tag for tag in TAGS if tag not in tokens.values()]
        self._missing = missing
        beginnings = {tag[:length] for tag in missing for length in range(1, len(tag))}
        # What ends with the longest beginning of a tag may become that tag.
        self._beginning = re.compile(f"(?:{'|'.join(sorted(map(re.escape, beginnings), key=len, reverse=True))})$")
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._pending = ""

    def feed(self, token: int, data: bytes) -> str:
        """Take a token with its bytes; return what is certain so far."""
        mark = self._marks.get(token)
        if mark is not None:
            self._decoder.reset()  # of a truncated character
            return self.finish() + mark
        text = self._decoder.decode(data)
        if not self._missing:
            return text
        self._pending = marked(self._pending + text, self._missing)
        held = self._beginning.search(self._pending)
        end = held.start() if held else len(self._pending)
        text, self._pending = self._pending[:end], self._pending[end:]
        return text

    def finish(self) -> str:
        """Return what was held back, since no more comes."""
        text, self._pending = self._pending, ""
        return text
