"""Run models on small and large batches, and save the logits: python matmul_scenarios.py OUT.npz THREADS GGUF...

A program of its own, because llama.cpp chooses its kernels once in a process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from oracles import llama

Array = np.ndarray[Any, Any]

# Each starts new sequences by a batch of another size: a panel of columns, some columns, a single one.
SPLITS = ((20, 3, 1, 1, 5), (3, 20, 1, 5, 1), (1, 5, 20, 1, 3))
SEQUENCES = 5  # of each split
LENGTH = sum(SPLITS[0])


def run(gguf: Path, threads: int) -> Array:
    """Return the logits, (splits, sequences, tokens, vocabulary)."""
    tokens = np.random.default_rng(5).integers(0, 2033, (len(SPLITS), SEQUENCES, LENGTH))
    with llama.loaded(gguf) as model:
        vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        with llama.context(model, 64, n_threads=threads, n_threads_batch=threads) as ctx:
            rows = []
            for split, sequences in zip(SPLITS, tokens.tolist(), strict=True):
                for sequence in sequences:
                    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
                    start = 0
                    for count in split:
                        rows.append(llama.decode(ctx, sequence[start : start + count], start, vocab))
                        start += count
    return np.concatenate(rows).reshape(*tokens.shape, vocab)


def main() -> None:
    """Run every model; the arrays have the names of their files."""
    out, threads, *models = sys.argv[1:]
    arrays: dict[str, Any] = {Path(model).stem: run(Path(model), int(threads)) for model in models}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main()
