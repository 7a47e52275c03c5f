"""What restricts the tokens of an answer: grammars, and the masks that the engine asks for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.llama.batch import FloatArray
from qwen35_gguf.runtime.llama.sampling.samplers import Chain

Syntax = Literal["gbnf", "regex", "lark"]


@dataclass(frozen=True)
class Grammar:
    """Rules that a whole answer obeys.

    Attributes:
        syntax: "gbnf", llama.cpp's; "regex", an expression that the answer matches; "lark", rules in the dialect of
            llguidance.
        definition: the rules.

    Raises:
        GrammarError: the syntax is unknown, or the definition is not a text.

    """

    syntax: Syntax
    definition: str

    def __post_init__(self) -> None:
        if self.syntax not in get_args(Syntax):
            raise GrammarError(f"grammar: {str(self.syntax)[:40]!r} is not a syntax; use gbnf, regex or lark")
        if not isinstance(self.definition, str) or not self.definition:
            raise GrammarError("grammar: is not a text, or empty; give rules")


class TokenMask(Protocol):
    """Which tokens may come next."""

    def choose(self, chain: Chain, logits: FloatArray) -> int:
        """Choose a token among those that are allowed, as the chain does.

        Args:
            chain: of samplers.
            logits: (n_vocab,) float32.

        Raises:
            GrammarError: nothing is allowed here.

        """

    def accept(self, token: int) -> None:
        """Advance by a token.

        Raises:
            GrammarError: it is not allowed.

        """

    def forced(self) -> list[int]:
        """Return tokens that certainly follow, so that they need not be sampled; `accept` them."""

    def close(self) -> None:
        """Free what it holds."""
