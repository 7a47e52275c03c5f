"""Parse tokens into reasoning, content and tool calls, and find stop texts."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_gguf.runtime.chat.openai_types import CallDelta, Delta, Message, join_calls
from qwen35_gguf.runtime.chat.tags import TagDecoder, marked, spelled
from qwen35_gguf.runtime.chat.thinking import Piece, Splitter
from qwen35_gguf.runtime.chat.tool_calls.call_parser import CLOSE, OPEN, ToolCallParser


class StopText:
    """Looks for the first of several texts in one that comes in pieces, and returns what is certainly before it.

    Attributes:
        found: the text that was found, as it was given; empty: none yet.

    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for any of `stops`, none of them empty, also as models write them: normalized to NFC."""
        written = {unicodedata.normalize("NFC", stop): stop for stop in stops}
        self._stops = written | {stop: stop for stop in stops}
        self._pending = ""
        self.found = ""

    def feed(self, text: str) -> str:
        """Take the next piece; after a stop nothing more is returned."""
        if not self._stops:
            return text
        if self.found:
            return ""
        self._pending += text
        hits = [(at, stop) for form, stop in self._stops.items() if (at := self._pending.find(form)) >= 0]
        if hits:
            at, self.found = min(hits, key=lambda hit: hit[0])
            return self._take(at)
        held = max(self._beginning(stop) for stop in self._stops)
        return self._take(len(self._pending) - held)

    def finish(self) -> str:
        """Return what was held back, since no more comes."""
        return "" if self.found else self._take(len(self._pending))

    def _take(self, length: int) -> str:
        text, self._pending = self._pending[:length], self._pending[length:]
        return text

    def _beginning(self, stop: str) -> int:
        """Count the characters at the end that may be the beginning of `stop`."""
        most = min(len(stop) - 1, len(self._pending))
        return next((n for n in range(most, 0, -1) if self._pending.endswith(stop[:n])), 0)


class StopOutsideCalls(StopText):
    """Looks for stop texts that begin outside of tool calls, which are not content, and whose halves are useless."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for any of `stops`."""
        super().__init__(stops)
        self._open = False

    def feed(self, text: str) -> str:
        """Take the next piece of text with marks; a stop that begins before a call, or with it, may end inside."""
        if not self._stops or (not self._open and OPEN not in text):
            return super().feed(text)
        return "".join(map(self._character, text))

    def _character(self, one: str) -> str:
        known = one if self._open and not self._pending and not self.found else super().feed(one)
        if one in (OPEN, CLOSE):
            self._open = one == OPEN
        return known


class RawText:
    """Turns tokens into text and nothing else, with the methods of `ReplyParser`.

    Attributes:
        inside: False, since nothing is taken as reasoning.

    """

    inside = False

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """Start at the end of a prompt."""
        # A character may be split over tokens; invalid and truncated ones are left out.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._stop = StopText(stop)
        self._content: list[str] = []

    @property
    def stopped(self) -> str:
        """The stop text that was found; empty: none."""
        return spelled(self._stop.found)

    def feed(self, _token: int, data: bytes) -> list[Delta]:
        """Take a token with its bytes."""
        return self._give(self._stop.feed(self._decoder.decode(data)))

    def finish(self, *, truncated: bool = False) -> list[Delta]:  # noqa: ARG002 (as of `ReplyParser`)
        """Return the rest, since no more tokens come."""
        return self._give(self._stop.finish())

    def message(self) -> Message:
        """Return the whole message."""
        return Message("".join(self._content))

    def _give(self, text: str) -> list[Delta]:
        if not text:
            return []
        self._content.append(text)
        return [Delta(content=text)]


class ReplyParser:
    """Turns tokens into deltas.

    Attributes:
        inside: whether the next token belongs to the think block, as far as is known.
        stopped: the stop text that was found; empty: none.

    """

    def __init__(
        self,
        tags: Mapping[int, str],
        *,
        inside: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        """Start where the prompt ends.

        Args:
            tags: of the vocabulary, by the id of their token.
            inside: the prompt ends inside of a think block.
            tools: that may be called; without them nothing is parsed as a call.
            stop: texts before which the content ends; a tag in them is found as a token and as text. What is inside
                of a call does not count.

        """
        self._decoder = TagDecoder(tags)
        self._splitter = Splitter(inside=inside)
        self._stop = (StopOutsideCalls if tools else StopText)([*stop, *map(marked, stop)])
        self._tools = ToolCallParser(tools) if tools else None
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: list[CallDelta] = []

    @property
    def inside(self) -> bool:
        """Whether the next token belongs to the reasoning."""
        return self._splitter.inside

    @property
    def stopped(self) -> str:
        """The stop text that was found; empty: none."""
        return spelled(self._stop.found)

    def feed(self, token: int, data: bytes) -> list[Delta]:
        """Take a token with its bytes."""
        return self._deltas(self._splitter.feed(self._decoder.feed(token, data)))

    def finish(self, *, truncated: bool = False) -> list[Delta]:
        """Return the rest, since no more tokens come; of a truncated answer without the beginning of a call."""
        deltas = self._deltas(self._splitter.feed(self._decoder.finish()))
        deltas += self._answer(self._stop.finish())
        if self._tools is not None:
            deltas += self._found(self._tools.finish(truncated=truncated))
        return deltas

    def message(self) -> Message:
        """Return the whole message."""
        content, reasoning = "".join(self._content), "".join(self._reasoning)
        calls = join_calls(self._calls)
        return Message(content if content or not calls else None, reasoning or None, calls or None)

    def _deltas(self, pieces: Sequence[Piece]) -> list[Delta]:
        deltas = []
        for piece in pieces:
            if piece.reasoning:
                self._reasoning.append(spelled(piece.text))
                deltas.append(Delta(reasoning_content=self._reasoning[-1]))
            else:
                deltas += self._answer(self._stop.feed(piece.text))
        return deltas

    def _answer(self, text: str) -> list[Delta]:
        return self._found(self._tools.feed(text) if self._tools is not None else [text])

    def _found(self, items: Sequence[str | CallDelta]) -> list[Delta]:
        deltas = []
        for item in items:
            if isinstance(item, CallDelta):
                self._calls.append(item)
                deltas.append(Delta(tool_calls=[item]))
            elif item:
                self._content.append(spelled(item))
                deltas.append(Delta(content=self._content[-1]))
        return deltas
