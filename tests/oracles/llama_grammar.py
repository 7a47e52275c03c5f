"""llama.cpp's own grammars in GBNF: which tokens may come next."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.runtime.llama.handle import Handle
from qwen35_gguf.runtime.llama.library import Closing, library
from qwen35_gguf.runtime.llama.sampling.samplers import CANDIDATE, candidate_array
from qwen35_gguf.runtime.llama.vocabulary import Vocabulary


class LlamaGrammar(Closing):
    """A grammar of llama.cpp at some place of a text."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        """Compile a grammar whose start is `root`."""
        self._library = lib = library()
        self._size = vocabulary.size
        pointer = lib.llama_sampler_init_grammar(vocabulary.pointer, text.encode(), b"root")
        assert pointer, text
        self._handle = Handle(self, pointer, lib.llama_sampler_free)

    def close(self) -> None:
        """Free it."""
        self._handle.close()

    @property
    def pointer(self) -> Any:
        """`llama_sampler_p`."""
        return self._handle.pointer

    def allowed(self) -> npt.NDArray[np.intp]:
        """Return the tokens that may come next."""
        candidates = np.zeros(self._size, CANDIDATE)
        candidates["id"] = np.arange(self._size)
        array = candidate_array(self._library, candidates)
        self._library.llama_sampler_apply(self.pointer, array)
        return np.flatnonzero(~np.isneginf(candidates["logit"]))

    def accept(self, token: int) -> None:
        """Advance by a token that is allowed."""
        self._library.llama_sampler_accept(self.pointer, token)
