"""What the patches change in a model's output: KL divergence from the stock build, and greedy text.

.venv/bin/python bench/divergence.py [--size 0.8b] [--quant Q4_K_M] [--model FILE] [--tokens 256] [--cpu avx2]

The builds are those of bench/runtime.py. Tokens are evaluated as one batch with all logits; then 200 tokens are
generated greedily, one at a time. The patched side runs with one and with two threads.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from runtime import BUILDS, CMAKE_ARGS, child_environment, context, convert, environment

GREEDY = 200
Array = np.ndarray[Any, Any]


def main() -> None:
    """Print a row for each patched run, against the stock one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--cpu", default="native", choices=CMAKE_ARGS, help="what both builds are compiled for")
    parser.add_argument("--child", nargs=2, metavar=("OUT", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        evaluate(options.model, options.tokens, int(options.child[1]), Path(options.child[0]))
        return
    pythons = {build: environment(build, options.cpu) for build in BUILDS}
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or convert(Path(scratch), options.size, options.quant)
        runs = {}
        for name, side, threads in (("stock", "stock", 2), ("patched", "patched", 2), ("one thread", "patched", 1)):
            out = Path(scratch, f"{threads}{side}.npz")
            command = [pythons[side], __file__, "--model", model, "--tokens", options.tokens]
            command += ["--child", out, threads]
            environ = child_environment(options.cpu)
            subprocess.run([*map(str, command)], check=True, stderr=subprocess.DEVNULL, env=environ)
            with np.load(out) as arrays:
                runs[name] = dict(arrays)
        print(f"{model.name}, built for {options.cpu}, {options.tokens} tokens, {GREEDY} greedy ones")
        print(f"{'':<14}{'mean KL':>12}{'largest KL':>12}{'same top 1':>12}{'greedy tokens in common':>26}")
        for name in ("patched", "one thread"):
            kl = divergence(runs["stock"]["logits"], runs[name]["logits"])
            same = (runs["stock"]["logits"].argmax(1) == runs[name]["logits"].argmax(1)).mean()
            differs = runs["stock"]["greedy"] != runs[name]["greedy"]
            common = int(differs.argmax()) if differs.any() else GREEDY
            print(f"{name:<14}{kl.mean():>12.1e}{kl.max():>12.1e}{same:>12.1%}{common:>26}")


def divergence(reference: Array, other: Array) -> Array:
    """Return the KL divergence of each row's prediction, in nats; arguments are (rows, vocabulary) float32 logits."""
    out = np.empty(len(reference))
    for i, (p, q) in enumerate(zip(reference, other, strict=True)):
        log_p, log_q = (row.astype(np.float64) - np.logaddexp.reduce(row.astype(np.float64)) for row in (p, q))
        out[i] = (np.exp(log_p) * (log_p - log_q)).sum()
    return out


def evaluate(model: Path, tokens: int, threads: int, out: Path) -> None:
    """Write the logits of a batch and the greedy tokens behind it."""
    import llama_cpp

    loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
    ctx = context(llama_cpp, loaded, threads, rollback=0)
    random = np.random.default_rng(0)
    prompt = random.integers(0, min(vocabulary, 100_000), tokens)

    def decode(ids: Array, position: int) -> Array:
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), position + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, True
        if llama_cpp.llama_decode(ctx, batch):
            sys.exit("llama_decode failed")
        llama_cpp.llama_batch_free(batch)
        rows = np.ctypeslib.as_array(llama_cpp.llama_get_logits(ctx), (len(ids), vocabulary))
        return rows.copy()

    logits = decode(prompt, 0)
    greedy = [int(logits[-1].argmax())]
    while len(greedy) < GREEDY:
        row = decode(np.array(greedy[-1:]), tokens + len(greedy) - 1)
        greedy.append(int(row[0].argmax()))
    np.savez(out, logits=logits, greedy=np.array(greedy))


if __name__ == "__main__":
    main()
