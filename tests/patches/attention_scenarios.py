"""Run one model through the ways a KV cache is used, and save the logits: python attention_scenarios.py GGUF OUT.npz.

A program of its own, because llama.cpp chooses its kernels once in a process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from oracles import llama

Array = np.ndarray[Any, Any]

CACHES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
STEPS = (600, 1, 3, 1, 33, 1)
DEPTH = 8192
SEVERAL = {"n_seq_max": 2, "kv_unified": True, "n_rs_seq": 3}
YARN = {"rope_scaling_type": 2, "rope_freq_scale": 0.25, "yarn_orig_ctx": 256}


def random_tokens(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 2033, count).tolist()


def in_steps(ctx: Any, vocab: int) -> Array:
    """A prompt, single tokens, and small batches behind it."""
    tokens, rows, start = random_tokens(sum(STEPS), 5), [], 0
    for count in STEPS:
        rows.append(llama.decode(ctx, tokens[start : start + count], start, vocab))
        start += count
    return np.concatenate(rows)


def fill(ctx: Any, depth: int, vocab: int) -> None:
    """Evaluate a long prompt."""
    tokens = random_tokens(depth, 8)
    for start in range(0, depth, 512):
        llama.decode(ctx, tokens[start : start + 512], start, vocab)


def at_depth(ctx: Any, vocab: int, depth: int = DEPTH) -> Array:
    """Logits behind a long prompt: of a batch, of two tokens, of one; of two sequences; after a rollback."""
    fill(ctx, depth, vocab)
    memory = llama_cpp.llama_get_memory(ctx)
    tokens, rows = random_tokens(60, 9), []
    for start, count in ((0, 40), (40, 2), (42, 1)):
        rows.append(llama.decode(ctx, tokens[start : start + count], depth + start, vocab))
    llama_cpp.llama_memory_seq_cp(memory, 0, 1, -1, -1)
    for step in range(3):
        rows.append(two_sequences(ctx, [tokens[43 + step], tokens[50 + step]], depth + 43 + step, vocab))
    llama.decode(ctx, tokens[46:49], depth + 46, vocab)
    assert llama_cpp.llama_memory_seq_rm(memory, 0, depth + 47, -1)
    rows.append(llama.decode(ctx, tokens[50:55], depth + 47, vocab))
    return np.concatenate(rows)


def two_sequences(ctx: Any, tokens: list[int], position: int, vocab: int) -> Array:
    """One token of each of two sequences in one call."""
    batch = llama_cpp.llama_batch_init(2, 0, 1)
    batch.n_tokens = 2
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, position, 1, i, 1
    assert llama_cpp.llama_decode(ctx, batch) == 0
    found = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx, i), (vocab,)).copy() for i in range(2)]
    llama_cpp.llama_batch_free(batch)
    return np.stack(found)


def at_twice_the_depth(ctx: Any, vocab: int) -> Array:
    return at_depth(ctx, vocab, 2 * DEPTH)


def rolled_back(ctx: Any, vocab: int) -> Array:
    """Drafts, of which some are rejected."""
    llama.decode(ctx, random_tokens(300, 5), 0, vocab)
    llama.decode(ctx, random_tokens(3, 6), 300, vocab)
    assert llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(ctx), 0, 301, -1)
    return llama.decode(ctx, random_tokens(5, 7), 301, vocab)


def several_sequences(ctx: Any, vocab: int) -> Array:
    """Two sequences in one cache, of different lengths: the mask has holes."""
    rows = []
    for first, counts in ((0, (200, 90)), (200, (1, 0)), (201, (5, 0))):
        batch = llama_cpp.llama_batch_init(sum(counts), 0, 1)
        for at in range(sum(counts)):
            sequence = int(at >= counts[0])
            batch.token[at] = 7 + 3 * at % 2000
            batch.pos[at] = first + at - sequence * counts[0]
            batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, sequence, 1
        batch.n_tokens = sum(counts)
        assert llama_cpp.llama_decode(ctx, batch) == 0
        for at in range(sum(counts)):
            rows.append(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx, at), (vocab,)).copy())
        llama_cpp.llama_batch_free(batch)
    return np.stack(rows)


SCENARIOS: dict[str, tuple[Callable[[Any, int], Array], dict[str, Any]]] = {
    "steps": (in_steps, {}),
    "one thread": (in_steps, {"n_threads": 1, "n_threads_batch": 1}),
    "rollback": (rolled_back, {"n_rs_seq": 3}),
    "sequences": (several_sequences, {"n_seq_max": 2, "kv_unified": True}),
    "yarn": (in_steps, YARN),
    "again": (in_steps, {}),
    "8,192": (at_depth, SEVERAL),
    "8,192, yarn": (at_depth, SEVERAL | YARN),
    "16,384": (at_twice_the_depth, SEVERAL),
}
DEEP = {"8,192, yarn", "16,384"}  # of the usual caches only


CELLS = {at_depth: DEPTH + 256, at_twice_the_depth: 2 * DEPTH + 256}
USUAL = ("f16", "q8_0")


def main(gguf: Path, out: str) -> None:
    results = {}
    with llama.loaded(gguf) as model:
        vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        for kind, ggml_type in CACHES.items():
            for name, (run, options) in SCENARIOS.items():
                if name in DEEP and kind not in USUAL:
                    continue
                cache = {"type_k": ggml_type, "type_v": ggml_type, "flash_attn_type": 1}
                with llama.context(model, CELLS.get(run, 1024), **cache, **options) as ctx:
                    results[f"{kind} {name}"] = run(ctx, vocab)
    np.savez(out, **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
