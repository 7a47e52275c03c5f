"""Tied embeddings: the output matrix is the embedding, and is not stored twice.

As transformers loads them (`tie_weights` in modeling_utils.py): what config.json claims is done only where the weights
agree, and either of the two may be the one that was saved.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import NamedTuple, TypeVar

EMBEDDING = "embed_tokens.weight"
OUTPUT = "lm_head.weight"

Tensor = TypeVar("Tensor")


class Tied(NamedTuple):
    """Whether the embedding is also the output matrix, and what to tell the user about it, one line each."""

    tied: bool
    notes: tuple[str, ...] = ()


def settle(tensors: MutableMapping[str, Tensor], *, claimed: bool, equal: Callable[[str, str], bool]) -> Tied:
    """Find whether the embeddings are tied, and keep one of two equal matrices, under the embedding's name.

    Args:
        tensors: by canonical name; is changed.
        claimed: config.json claims that the embeddings are tied.
        equal: compares the weights of two tensors.

    """
    if OUTPUT not in tensors:
        return Tied(claimed)
    if EMBEDDING not in tensors:
        if not claimed:
            return Tied(False)
        tensors[EMBEDDING] = tensors.pop(OUTPUT)
        return Tied(True, (f"the tied embedding is saved as {OUTPUT} alone: it is read from there",))
    if equal(EMBEDDING, OUTPUT):
        del tensors[OUTPUT]
        return Tied(True, (f"{OUTPUT} equals {EMBEDDING}: it is written once, as a tied embedding",))
    differs = f"config.json says tie_word_embeddings, but {OUTPUT} differs from {EMBEDDING}: both are written, as "
    return Tied(False, (f"{differs}transformers loads them",) if claimed else ())
