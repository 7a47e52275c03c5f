"""What all layers of a sequential collection share: the text in chunks, what its tokens count, types and moments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.convert.rounding import Rounding
from qwen35_gguf.evaluation.collect_moments import Text
from qwen35_gguf.evaluation.quantized_weights import Quantizing, Type
from qwen35_gguf.evaluation.sums.embedding_moments import OUTPUT
from qwen35_gguf.evaluation.token_effects import TokenEffects
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.quant.rounding.input_sums import HALVES
from qwen35_gguf.quant.rounding.moments import Moments, Provenance

Float = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

# Inputs of a layer, in the order of the graph; those of one stage do not depend on each other.
STAGES = (
    ("attn_qkv", "attn_q"),
    ("ssm_out", "attn_output"),
    ("ffn_gate", "ffn_gate_shexp"),
    ("ffn_down", "ffn_down_shexp"),
)
BATCH = 2048  # tokens of one matmul: fewer take longer for each, more need new memory each time


@dataclass(frozen=True)
class Run:
    """What all layers share."""

    header: GgufHeader
    originals: Mapping[str, Array]
    types: Mapping[str, Type]
    text: Text
    effects: TokenEffects | None
    provenance: Provenance
    before: Moments  # of the model as it is
    threads: int

    @property
    def tokens(self) -> int:
        """Of the whole text."""
        return self.text.chunk * self.text.chunks

    def chunks(self) -> Iterator[slice]:
        """Yield the tokens of each chunk."""
        return _slices(self.tokens, self.text.chunk)

    def batches(self) -> Iterator[slice]:
        """Yield the tokens of the text in batches."""
        return _slices(self.tokens, BATCH)

    def halves(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield the tokens of each half of the text, which is every second chunk, in batches: the half and numbers."""
        of_chunks = np.arange(self.tokens).reshape(-1, self.text.chunk)
        for half in range(HALVES):
            own = of_chunks[half::HALVES].reshape(-1)
            for part in _slices(len(own), BATCH):
                yield half, own[part]

    def counts(self, own: npt.NDArray[np.int64], *, output: bool = False) -> Float:
        """Return what tokens count, (tokens,)."""
        if self.effects is None:
            return np.ones(len(own), np.float32)
        return (self.effects.output if output else self.effects.stream)[own].astype(np.float32)

    def as_it_is(self, name: str) -> Quantizing:
        """Return how weights are quantized that have moments of the model as it is, if any."""
        kind = self.provenance.kind
        rounding = Rounding(kind, kind, self.before) if self.before.has(name) else None
        return Quantizing(rounding=rounding, threads=self.threads)


def _slices(tokens: int, step: int) -> Iterator[slice]:
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))


def is_sequential(name: str, layers: int) -> bool:
    """Tell whether an input has moments of the quantized model: those of main layers, and an output matrix's own."""
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None:
        return name == OUTPUT
    return int(match[1]) < layers and any(match[2] in stage for stage in STAGES)
