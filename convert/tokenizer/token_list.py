"""The tokens of a vocabulary by id, each with its type; ids without a token are filled."""

from __future__ import annotations

from collections.abc import Sequence

from gguf import GGUFValueType, Keys, TokenType

from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.gguf_file.keyvalue import KeyValue


class TokenList:
    """Collects tokens; ids that are left are filled with `[PAD{id}]`, marked unused."""

    def __init__(self, where: str, size: int) -> None:
        """Take the file that messages name, and the rows of the embedding."""
        self._where, self._size = where, size
        self._texts: dict[int, str] = {}
        self._written: dict[int, str] = {}
        self._types: dict[int, TokenType] = {}

    def add(self, id_: object, text: str, type_: TokenType, written: str | None = None) -> None:
        """Give an id a text, and how the file writes it; the same one may be added again with another type.

        Raises:
            CheckpointError: the id is outside of the vocabulary, or has another text.

        """
        if not isinstance(id_, int) or isinstance(id_, bool) or not 0 <= id_ < self._size:
            raise CheckpointError(
                f"{self._where}: token {text!r} has the id {id_!r}, outside the vocabulary of {self._size} that "
                "config.json declares; the tokenizer belongs to another model"
            )
        if self._texts.setdefault(id_, text) != text:
            raise CheckpointError(
                f"{self._where}: the tokens {self._texts[id_]!r} and {text!r} share the id {id_}; "
                "take the tokenizer files of one model"
            )
        self._written[id_], self._types[id_] = written if written is not None else text, type_

    def rename(self, id_: int, text: str, type_: TokenType, written: str) -> None:
        """Give an id another text, or its first one; errors as of `add`."""
        self._texts.pop(id_, None)
        self.add(id_, text, type_, written)

    def entries(self) -> list[KeyValue]:
        """Return the lists of texts and types."""
        ids = range(self._size)
        return [
            array(Keys.Tokenizer.LIST, [self._written.get(i, f"[PAD{i}]") for i in ids], GGUFValueType.STRING),
            array(
                Keys.Tokenizer.TOKEN_TYPE,
                [int(self._types.get(i, TokenType.UNUSED)) for i in ids],
                GGUFValueType.INT32,
            ),
        ]


def array(key: str, values: Sequence[str] | Sequence[int] | Sequence[float], element: GGUFValueType) -> KeyValue:
    """Make an entry of a list."""
    return KeyValue.of(key, values, GGUFValueType.ARRAY, element)
