"""Keep the control tokens and tags of the template apart from texts of messages that spell them, which stay text.

Before the template renders the messages, what spells a token in them is put between marks, lone surrogates, which no
text has. What the template itself writes has no marks. The tokens are those of transformers' `apply_chat_template` with
`sanitize_control_tokens=True`, except for two places where tags are the model's own, and stay tags: the content of an
assistant's message that nobody parsed, and a user's message that is a tool's result as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from qwen35_gguf.architecture.tags import END_TOOL_RESPONSE, TAGS, TOOL_RESPONSE
from qwen35_gguf.runtime.llama.vocabulary import Vocabulary

START, END, BREAK = "\ud800", "\ud801", "\ud802"
MARKED = re.compile(f"{START}([^{START}{END}{BREAK}]+){END}")
LONE = re.compile(f"[{START}{END}{BREAK}]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_TOOL_RESULT = re.compile(rf"(\s*{TOOL_RESPONSE})(.*)({END_TOOL_RESPONSE}\s*)", re.DOTALL)
# Looking the control tokens up takes a tenth of a second, and their names begin with one of these.
_OPENING = re.compile(r"[<\[]")


class ControlTokens:
    """Marks what spells a control token or a tag of a vocabulary, and tokenizes what was rendered with marks."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Take the vocabulary; its control tokens are looked up when the first text might spell one."""
        self._vocabulary = vocabulary

    @cached_property
    def _control(self) -> _Names:
        return _Names(self._vocabulary.control_tokens)

    @cached_property
    def _all(self) -> _Names:
        return _Names({*self._vocabulary.control_tokens, *TAGS})

    def mark_messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return messages, as `check_messages` returns them, with marks in their texts."""
        return [self._message(message) for message in messages]

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        marked: dict[str, Any] = self.mark(message)
        role, content = message.get("role"), message.get("content")
        parsed = isinstance(message.get("reasoning_content"), str) or message.get("tool_calls")
        if role == "assistant" and not parsed:
            marked["content"] = self.mark(content, tags=False)
        elif role == "user" and isinstance(content, str) and (whole := _TOOL_RESULT.fullmatch(content)):
            marked["content"] = whole[1] + self.mark(whole[2]) + whole[3]
        return marked

    def mark(self, value: Any, *, tags: bool = True) -> Any:
        """Mark all texts in a value of JSON; with `tags` also what spells a tag."""
        if isinstance(value, str):
            text = _SURROGATES.sub("?", value)
            if not _OPENING.search(text):
                return text
            return (self._all if tags else self._control).mark(text)
        if isinstance(value, Mapping):
            return {self.mark(key, tags=tags): self.mark(item, tags=tags) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            return [self.mark(item, tags=tags) for item in value]
        return value

    def tokenize(self, rendered: str) -> list[int]:
        """Turn a text with marks into token ids: what is marked is spelled with ordinary tokens."""
        ids: list[int] = []
        for number, part in enumerate(MARKED.split(rendered)):
            if number % 2:
                ids += self._vocabulary.tokenize_plain(part)
            else:
                for piece in self._pieces(part):
                    ids += self._vocabulary.tokenize(piece)
        return ids

    def _pieces(self, text: str) -> Iterator[str]:
        """Split a text at the marks that keep its two sides from forming a token, and drop the other ones."""
        first, *rest = LONE.split(text)
        for piece in rest:
            if self._all.spans(first + piece, len(first)):
                yield first
                first = piece
            else:
                first += piece
        yield first


class _Names:
    """Finds the names of tokens in texts, and their beginnings at the end of texts."""

    def __init__(self, names: frozenset[str] | set[str]) -> None:
        longest_first = sorted(names, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._longest = max(map(len, names), default=0)
        beginnings = {name[:length] for name in names for length in range(1, len(name))}
        any_beginning = "|".join(sorted(map(re.escape, beginnings), key=len, reverse=True)) or "(?!)"
        self._beginning = re.compile(rf"({any_beginning})(?=\s*\Z)")

    def mark(self, text: str) -> str:
        """Put names between marks; a mark also keeps the end of the text from becoming a name with what follows."""
        text = self._names.sub(rf"{START}\g<0>{END}", text)
        tail = max(0, len(text.rstrip()) - self._longest)
        return text[:tail] + self._beginning.sub(rf"\1{BREAK}", text[tail:], count=1)

    def spans(self, text: str, at: int) -> bool:
        """Report whether a name begins before `at` and ends after it."""
        around = range(max(0, at - self._longest), at)
        return any((match := self._names.match(text, start)) and match.end() > at for start in around)
