"""The mask of a schema with `uniqueItems`: no item comes twice, and no item is begun that could only come twice."""

from __future__ import annotations

import numpy as np

from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured.json_scanner import JsonScanner
from qwen35_gguf.runtime.chat.structured.masks import GrammarMask
from qwen35_gguf.runtime.chat.structured.schema_walk import CheckedSchema
from qwen35_gguf.runtime.chat.structured.token_grammars import byte_matcher, json_grammar
from qwen35_gguf.runtime.llama.batch import FloatArray
from qwen35_gguf.runtime.llama.sampling.samplers import Chain
from qwen35_gguf.runtime.llama.vocabulary import Vocabulary

MAX_STEPS = 400  # of the search for another item
MAX_DEPTH = 64  # bytes of it
MAX_REFUSED = 1000
FIRST = b'"]},'  # what ends items


class UniqueItemsMask:
    """A mask that also keeps items apart.

    A token is taken if the item that it continues can become one that is not there yet. That is found by a search over
    bytes, which is short in all but small sets of items.
    """

    def __init__(self, mask: GrammarMask, checked: CheckedSchema, vocabulary: Vocabulary) -> None:
        """Take the mask of the schema without `uniqueItems`."""
        self._mask, self._vocabulary = mask, vocabulary
        self._bytes = byte_matcher(json_grammar(checked))
        self._scanner = JsonScanner(checked)
        self._idle = False  # a call came instead of JSON

    def close(self) -> None:
        """Free the mask."""
        self._mask.close()

    def choose(self, chain: Chain, logits: FloatArray) -> int:
        """Choose a token; see `TokenMask`."""
        refused: list[int] = []
        while len(refused) < MAX_REFUSED:
            token = self._mask.choose(chain, logits, refused)
            if self._fits(token):
                return token
            refused.append(token)
        raise GrammarError("JSON schema: uniqueItems leaves no item here; give items more values")

    def accept(self, token: int) -> None:
        """Advance by a token; see `TokenMask`."""
        self._mask.accept(token)
        data = self._data(token)
        if self._idle or not data:
            self._idle = True
            return
        self._bytes.consume_tokens(list(data))
        self._scanner = self._scanner.after(data)
        if self._scanner.repeated:
            raise GrammarError("JSON schema: uniqueItems cannot be kept, since an item is required twice")

    def forced(self) -> list[int]:
        """Return tokens that certainly follow."""
        return self._mask.forced()

    def _data(self, token: int) -> bytes:
        return b"" if token in self._vocabulary.tags else self._vocabulary.piece(token)

    def _fits(self, token: int) -> bool:
        data = self._data(token)
        if self._idle or not data:
            return True
        after = self._scanner.after(data)
        depth = after.innermost()
        if after.repeated or depth is None or not after.stack[depth].seen:
            return not after.repeated
        self._bytes.consume_tokens(list(data))
        steps = [MAX_STEPS]
        found = self._can_differ(after, depth, after.stack[depth].count, steps)
        self._bytes.rollback(len(data))
        return found

    def _can_differ(self, scanner: JsonScanner, depth: int, count: int, steps: list[int], length: int = 0) -> bool:
        """Report whether the current item of the array at a depth can end without being there already."""
        steps[0] -= 1
        if steps[0] < 0 or length > MAX_DEPTH:
            return True
        bits = np.unpackbits(np.frombuffer(self._bytes.compute_bitmask(), np.uint8), bitorder="little")[:256]
        allowed = np.flatnonzero(bits).tolist()
        allowed.sort(key=lambda byte: byte not in FIRST)
        for byte in allowed:
            after = scanner.after(bytes([byte]))
            if after.repeated:
                continue
            if len(after.stack) <= depth or after.stack[depth].count > count:
                return True
            self._bytes.consume_token(byte)
            found = self._can_differ(after, depth, count, steps, length + 1)
            self._bytes.rollback(1)
            if found:
                return True
        return False
