"""Speed with all layers on the device: prompts, one token at a time, several sequences, behind 16,384 tokens.

pp512 and pp2048 are prompts in calls of 512 tokens (or 2,048), tg is one token at a time, each in tokens/s; nK is
one token of each of K sequences in a call: its milliseconds, and tokens/s of all together. Behind the depth the
sequences share the prompt.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from stage import Results, Setup, prefill, spec, whole

from qwen35_gguf.runtime.llama.batch import Part
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model, ModelSpec

DEPTH, SPARE = 16384, 4096
DECODED, STEPS = 64, 16
AT_ONCE = (1, 2, 3, 4, 5, 6, 7, 8)


def speed(setup: Setup, results: Results) -> None:
    """Measure each size, the main one first."""
    for size in reversed(setup.sizes):
        with Model(setup.model(size), ModelSpec(whole(setup.device()))) as model:
            one_sequence(model, setup, results, size, n_batch=512)
            many_sequences(model, setup, results, size)
            one_sequence(model, setup, results, size, n_batch=2048)
            one_sequence(model, setup, results, size, n_batch=512, kv_type="q8_0")


def one_sequence(model: Model, setup: Setup, results: Results, size: str, **fields: Any) -> None:
    """Measure prompts and single tokens, at the beginning and behind the depth."""
    with Context(model, spec(DEPTH + SPARE, setup.threads, **fields)) as context:
        prefill(context, 1024)
        row: dict[str, Any] = {}
        for count in (512, 2048):
            rates = []
            for _ in range(3):
                context.clear()
                rates.append(count / prefill(context, count))
            row[f"pp{count}"] = statistics.median(rates)
        context.clear()
        prefill(context, 8)
        row["tg"] = decode(context, 8)
        context.clear()
        row[f"pp{DEPTH}"] = DEPTH / prefill(context, DEPTH)
        row["pp512 behind"] = 512 / prefill(context, 512, DEPTH)
        row["tg behind"] = decode(context, DEPTH + 512)
        results.add(model=size, **fields, **row)


def decode(context: Context, pos: int) -> float:
    """Return tokens/s of one token at a time."""
    for i in range(4):
        prefill(context, 1, pos + i)
    begin = time.perf_counter()
    for i in range(DECODED):
        prefill(context, 1, pos + 4 + i)
    return DECODED / (time.perf_counter() - begin)


def many_sequences(model: Model, setup: Setup, results: Results, size: str) -> None:
    """Measure sequences that share calls, behind few tokens of their own, and behind a prompt that they share."""
    most = max(AT_ONCE)
    for depth in (0, DEPTH):
        with Context(model, spec(depth + SPARE, setup.threads, n_seq=most)) as context:
            if depth:
                prefill(context, depth)
            for seq in range(1, most):
                if depth:
                    context.share(0, seq, depth)
            at, row = depth, {}
            for count in AT_ONCE:
                seconds = []
                for step in range(STEPS):
                    parts = [Part([100 + 37 * seq], at + step, seq, 1) for seq in range(count)]
                    begin = time.perf_counter()
                    context.evaluate_parts(parts)
                    context.logits(-1)
                    seconds.append(time.perf_counter() - begin)
                middle = statistics.median(seconds[2:])
                row[f"n{count}"] = f"{1e3 * middle:.2f}ms/{count / middle:.0f}"
                if count < most:  # a sequence that joins begins where the others are
                    for seq in range(1, most):
                        context.remove(0, seq=seq)
                        context.share(0, seq, at + STEPS)
                at += STEPS
            results.add(model=size, at_once_behind=depth, **row)
