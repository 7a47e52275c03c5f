"""Masks over tokens: of a grammar for the whole answer, and of one that begins with a token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured.token_grammars import short
from qwen35_gguf.runtime.llama.batch import FloatArray
from qwen35_gguf.runtime.llama.sampling.samplers import Chain

if TYPE_CHECKING:
    from llguidance import LLMatcher

WORD = 32  # tokens of a word of the mask
FEW_WORDS = 512  # with allowed tokens: fewer are listed one by one
# What is added to eight logits, by the byte that allows them.
_ADDED = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0, -np.inf)
_ADDED = _ADDED.astype(np.float32)


class GrammarMask:
    """The tokens that a grammar allows."""

    def __init__(self, matcher: LLMatcher, n_vocab: int) -> None:
        """Take a compiled grammar at its start.

        Args:
            matcher: of llguidance.
            n_vocab: length of the logits.

        """
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._words = np.zeros(-(-n_vocab // WORD), np.uint32)
        self._added = np.empty((4 * len(self._words), 8), np.float32)
        self._masked = np.empty(n_vocab, np.float32)

    @property
    def complete(self) -> bool:
        """Whether the grammar is satisfied and nothing can follow."""
        return bool(self._matcher.is_stopped())

    def reset(self) -> None:
        """Go back to the start."""
        self._matcher.reset()

    def close(self) -> None:
        """Free nothing: the matcher is an object of Python."""

    def allowed(self) -> npt.NDArray[np.intp]:
        """Return the tokens that may come next, in order."""
        self._compute()
        return self._listed(np.flatnonzero(self._words))

    def choose(self, chain: Chain, logits: FloatArray, refused: Iterable[int] = ()) -> int:
        """Choose a token among those that are allowed and not refused; see `TokenMask`."""
        self._compute()
        for token in refused:
            self._words[token // WORD] &= ~np.uint32(1 << token % WORD)
        used = np.flatnonzero(self._words)
        if len(used) < FEW_WORDS:
            ids = self._listed(used)
            if not len(ids):
                raise GrammarError("grammar: allows no token here; relax it")
            return int(ids[0]) if len(ids) == 1 else chain.choose(logits, ids)
        # In one pass without branches: a mask that changes from token to token costs what any other does.
        np.take(_ADDED, self._words.view(np.uint8), axis=0, out=self._added)
        np.add(logits, self._added.reshape(-1)[: self._n_vocab], out=self._masked)
        return chain.choose(self._masked)

    def accept(self, token: int) -> None:
        """Advance by a token; see `TokenMask`."""
        if not self._matcher.consume_token(token):
            raise GrammarError(f"grammar: does not allow token {token} here ({short(self._matcher.get_error())})")

    def forced(self) -> list[int]:
        """Return tokens that certainly follow."""
        return [] if self._matcher.is_stopped() else self._matcher.compute_ff_tokens()

    def _compute(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if self._matcher.is_error():
            raise GrammarError(f"grammar: allows no token here ({short(self._matcher.get_error())}); simplify it")

    def _listed(self, used: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        bits = np.unpackbits(self._words[used].view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
        word, bit = np.nonzero(bits)
        ids: npt.NDArray[np.intp] = used[word] * WORD + bit
        return ids


class TriggeredMask:
    """Nothing is restricted until a token comes; then a grammar must be followed to its end, each time."""

    def __init__(self, mask: GrammarMask, trigger: int, *, endings: list[int] | None = None) -> None:
        """Wait for a token.

        Args:
            mask: of what follows the token.
            trigger: the token.
            endings: tokens of which one must come after the first time; None: anything may come.

        """
        self._mask, self._trigger = mask, trigger
        self._endings = None if endings is None else np.array(endings, np.intp)
        self._active = self._done = False

    def close(self) -> None:
        """Free the mask."""
        self._mask.close()

    def choose(self, chain: Chain, logits: FloatArray) -> int:
        """Choose a token; see `TokenMask`."""
        if self._active:
            return self._mask.choose(chain, logits)
        return chain.choose(logits, self._endings if self._done else None)

    def accept(self, token: int) -> None:
        """Advance by a token; see `TokenMask`."""
        if not self._active:
            self._active = token == self._trigger
            return
        self._mask.accept(token)
        if self._mask.complete:
            self._mask.reset()
            self._active, self._done = False, self._endings is not None

    def forced(self) -> list[int]:
        """Return tokens that certainly follow."""
        return self._mask.forced() if self._active else []
