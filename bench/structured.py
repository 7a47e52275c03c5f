"""Measure what structured output costs: time per token of a mask at 248,320 tokens, and of what is made once.

.venv/bin/python bench/structured.py [--tokens 200] [--model FILE]

No model is needed: answers are sampled at random from what the masks allow, on the family's published vocabulary. With
a model its own vocabulary is used, whose bytes are read from llama.cpp.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from oracles.random_answers import RandomChain, RealVocabulary
from qwen35_gguf.runtime.chat.structured.answer_form import answer_form, answer_mask, call_form
from qwen35_gguf.runtime.chat.structured.masks import GrammarMask
from qwen35_gguf.runtime.chat.structured.token_grammars import TokenGrammars
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools
from qwen35_gguf.runtime.llama.sampling.samplers import preselect

TEXT = {"type": "string", "maxLength": 400}
RECORD = {
    "type": "object",
    "properties": {
        "name": TEXT,
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": TEXT},
        "when": {"type": "string", "format": "date-time"},
        "kind": {"enum": ["one", "two", "three"]},
        "price": {"type": "number"},
    },
    "required": ["name", "age", "tags", "when", "kind", "price"],
    "additionalProperties": False,
}
SCHEMAS = {
    "text": {"type": "string"},
    "pattern": {"type": "string", "pattern": r"^[a-z]+( [a-z]+)*: \d{4}$"},
    "record": RECORD,
    "records": {"type": "array", "items": RECORD, "minItems": 3},
    "any object": {"type": "object"},
    "set of numbers": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "minItems": 30},
}


class TimedChain(RandomChain):
    """Chooses at random, and leaves out of the time what it takes itself."""

    seconds = 0.0

    def choose(self, logits: Any, ids: Any = None) -> int:
        """Choose a token."""
        start = time.perf_counter()
        try:
            return super().choose(logits, ids)
        finally:
            self.seconds += time.perf_counter() - start


def measure(make: Any, vocabulary: Any, most: int) -> tuple[float, list[float], list[float], int]:
    """Return the seconds to compile, those of `choose` and of `accept` per token, and the number of forced tokens."""
    start = time.perf_counter()
    mask = make()
    compiled = time.perf_counter() - start
    choosing: list[float] = []
    accepting: list[float] = []
    forced = seed = 0
    logits = np.random.default_rng(0).normal(size=vocabulary.size).astype(np.float32)
    chain = TimedChain(vocabulary, seed)
    while len(choosing) < most:
        chain.seconds = 0.0
        start = time.perf_counter()
        token = mask.choose(chain, logits)
        chosen = time.perf_counter()
        choosing.append(chosen - start - chain.seconds)
        mask.accept(token)
        ended = vocabulary.ends(token)
        known = [] if ended else mask.forced()
        for following in known:
            mask.accept(following)
        accepting.append(time.perf_counter() - chosen)
        forced += len(known)
        if ended:
            seed += 1
            mask, chain = make(), TimedChain(vocabulary, seed)
    return compiled, choosing, accepting, forced


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=300, help="sampled for each schema")
    parser.add_argument("--model", type=Path, help="a GGUF whose vocabulary is used")
    options = parser.parse_args()
    if options.model is None:
        vocabulary: Any = RealVocabulary()
    else:
        from qwen35_gguf.runtime.llama.model import Model

        vocabulary = Model(options.model).vocabulary
    grammars = TokenGrammars(vocabulary)
    start = time.perf_counter()
    vocabulary.pieces()
    pieces = time.perf_counter() - start
    start = time.perf_counter()
    grammars.prepare()
    once = time.perf_counter() - start
    print(f"{vocabulary.size:,} tokens; once per model: {once:.2f} s, of which {pieces:.2f} s for their bytes")
    print(f"{'ms per token':<16}{'compile':>9}{'mask':>8}{'median':>8}{'worst':>8}{'accept':>8}{'forced':>8}")
    free = RECORD | {"properties": RECORD["properties"] | {"name": {"type": "string"}}}
    tools = check_tools([{"name": "save", "parameters": free}])
    calls = call_form(tools, "required", False)

    def of(schema: Any) -> Any:
        return lambda: answer_mask(grammars, answer_form({"type": "json_schema", "schema": schema}, None))

    cases = {name: of(schema) for name, schema in SCHEMAS.items()} | {
        "tool call": lambda: answer_mask(grammars, None, calls)
    }
    for name, make in cases.items():
        compiled, choosing, accepting, forced = measure(make, vocabulary, options.tokens)
        figures = (
            compiled,
            statistics.fmean(choosing),
            statistics.median(choosing),
            max(choosing),
            statistics.fmean(accepting),
        )
        shown = "".join(f"{1000 * figure:>{width}.3f}" for figure, width in zip(figures, (9, 8, 8, 8, 8), strict=True))
        print(f"{name:<16}{shown}{forced / (forced + len(choosing)):>8.0%}")
    _compare(grammars, vocabulary)


def _compare(grammars: TokenGrammars, vocabulary: Any) -> None:
    """Print what a token costs anyway: finding the candidates of the sampler."""
    logits = np.random.default_rng(0).normal(size=vocabulary.size).astype(np.float32)
    start = time.perf_counter()
    for _ in range(100):
        preselect(logits, 20)
    print(f"for comparison, candidates without a mask: {10 * (time.perf_counter() - start):.3f} ms per token")
    mask = answer_mask(grammars, answer_form({"type": "json_schema", "schema": {"type": "string"}}, None))
    assert isinstance(mask, GrammarMask)
    print(f"allowed at the beginning of a text: {len(mask.allowed()):,} tokens ({json.dumps(vocabulary.size)} in all)")


if __name__ == "__main__":
    main()
