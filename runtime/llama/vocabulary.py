"""Text to token ids and back, with the vocabulary of a loaded model, as the checkpoint's tokenizer does it."""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Callable
from functools import cached_property
from itertools import repeat
from typing import Any

from qwen35_gguf.architecture.tags import TAGS
from qwen35_gguf.errors import ModelError
from qwen35_gguf.runtime.llama.library import library

# Before the last bracket of each tag.
_INSIDE_TAGS = re.compile("|".join(f"(?<={re.escape(tag[:-1])})(?={re.escape(tag[-1])})" for tag in TAGS))

PART = 1 << 16  # tokens that are copied without a break
UNKNOWN, CONTROL, USER_DEFINED = 1, 8, 16  # of llama_token_attr


class Vocabulary:
    """The vocabulary of a loaded model.

    Text is normalized to NFC, as by the tokenizer of all models of the family; llama.cpp leaves that to its callers.
    Added tokens are found before, so that a combining mark does not change the token that it follows.
    Source: transformers tokenization_qwen3_5.py (Qwen3_5Tokenizer), tokenizers added_vocabulary.rs.

    Attributes:
        pointer: `llama_vocab_p`.
        size: number of tokens.
        tags: the tags that are a token (see `TAGS`), by its id.

    """

    def __init__(self, pointer: Any) -> None:
        """Take the vocabulary of a model, which must stay loaded."""
        self._library = library()
        self.pointer = pointer
        self.size = int(self._library.llama_vocab_n_tokens(pointer))
        self._pieces: dict[int, bytes] = {}
        found = ((self._split(tag, special=True), tag) for tag in TAGS)
        self.tags = {ids[0]: tag for ids, tag in found if len(ids) == 1}

    def tokenize(self, text: str) -> list[int]:
        """Turn text into token ids; the names of control tokens become these tokens. No BOS is added.

        Raises:
            ModelError: the file's tokenizer is damaged.

        """
        if unicodedata.is_normalized("NFC", text):
            return self._split(text, special=True)
        ids: list[int] = []
        at = 0
        for match in self._added.finditer(text):
            ids += self._split(unicodedata.normalize("NFC", text[at : match.start()]), special=False)
            ids.append(self._ids[match[0]])
            at = match.end()
        return ids + self._split(unicodedata.normalize("NFC", text[at:]), special=False)

    def tokenize_plain(self, name: str) -> list[int]:
        """Turn text, tags and names of control tokens included, into the ids of ordinary tokens that spell it."""
        # llama.cpp finds user-defined tokens in any text; the family's tokenizer splits before the bracket anyway.
        return [token for part in _INSIDE_TAGS.split(name) for token in self._split(part, special=False)]

    def _split(self, text: str, *, special: bool) -> list[int]:
        raw = text.encode("utf-8", errors="replace")
        count = len(raw) + 8
        buffer = (self._library.llama_token * count)()
        n = self._library.llama_tokenize(self.pointer, raw, len(raw), buffer, count, False, special)
        if n < 0:
            raise ModelError("prompt: cannot be split into tokens; check the file's tokenizer")
        found: list[int] = []
        for at in range(0, n, PART):  # other threads take their turn between two
            found += buffer[at : min(n, at + PART)]
        return found

    # ---- added tokens, which are looked up when they are needed: it takes a tenth of a second ------------------------

    @cached_property
    def _attributes(self) -> dict[str, int]:
        """Attributes of the added tokens by their text, longest first."""
        attributes: Callable[[Any, int], int] = self._library.llama_vocab_get_attr
        added = UNKNOWN | CONTROL | USER_DEFINED
        found = {
            self.text_of(token): value
            for token, value in enumerate(map(attributes, repeat(self.pointer), range(self.size)))
            if value & added
        }
        return {text: found[text] for text in sorted(filter(None, found), key=len, reverse=True)}

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {text: ids[0] for text in self._attributes if len(ids := self._split(text, special=True)) == 1}

    @cached_property
    def _added(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._ids)) or r"(?!)")

    @cached_property
    def control_tokens(self) -> frozenset[str]:
        """The texts that become control tokens, without the tags, whose type does not matter here."""
        found = (text for text, value in self._attributes.items() if not value & USER_DEFINED)
        return frozenset(found) - frozenset(TAGS)

    # ---- tokens ------------------------------------------------------------------------------------------------------

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; control tokens have none, tags do, whatever their type is."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self.tags[token].encode() if token in self.tags else self._piece(token)
        return known

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        size = self._library.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, False)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = self._library.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, False)
        return buffer.raw[:size]

    def pieces(self) -> list[bytes]:
        """Return the bytes of all tokens; control tokens have none, and tags neither."""
        to_piece: Callable[..., int] = self._library.llama_token_to_piece
        buffer = ctypes.create_string_buffer(1024)
        found = []
        for token in range(self.size):
            length = to_piece(self.pointer, token, buffer, 1024, 0, False)
            found.append(self._piece(token) if length < 0 else buffer.raw[:length])
        for token in self.tags:
            found[token] = b""
        return found

    def text_of(self, token: int) -> str:
        """Return how the vocabulary writes a token, "" for none (-1)."""
        text = self._library.llama_vocab_get_text(self.pointer, token) if token >= 0 else b""
        return text.decode("utf-8", errors="replace") if text else ""

    @property
    def bos_token(self) -> str:
        """The text of the token at the beginning of a text, if there is one."""
        return self.text_of(self._library.llama_vocab_bos(self.pointer))

    @property
    def eos_token(self) -> str:
        """The text of the token at the end of a text."""
        return self.text_of(self._library.llama_vocab_eos(self.pointer))

    def ends(self, token: int) -> bool:
        """Report whether a token ends the generation."""
        return bool(self._library.llama_vocab_is_eog(self.pointer, token))
