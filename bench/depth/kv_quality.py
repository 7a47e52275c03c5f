"""What a type of the KV cache costs in predictions: mean KL divergence from an F32 cache behind many tokens.

.venv/bin/python bench/depth/kv_quality.py MODEL.gguf... [--depths 2048,8192,32768] [--tokens 256] [--threads 2]

With flash attention llama.cpp converts an F32 cache to F16, so the reference is attention with stored scores.

The text is what the package holds for calibration and evaluation, from the beginning again where it ends. Behind
`depth` tokens, `--tokens` more are evaluated in one call; their predictions are compared, row by row. Beyond the native
context of a model positions simply continue.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_gguf.evaluation.texts.packaged import CALIBRATION, EVALUATION, packaged_text
from qwen35_gguf.quant.divergence import log_softmax
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model

TYPES = ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
BATCH = 512


def main() -> None:
    """Print a row for each model and depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.gguf")
    parser.add_argument("--depths", default="2048,8192,32768")
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    types = options.types.split(",")
    print(f"mean KL divergence from an F32 cache in nats, {options.tokens} tokens behind `depth`")
    print(f"{'model':<32}{'depth':>8}" + "".join(f"{name:>10}" for name in types))
    text = packaged_text(CALIBRATION, None) + "\n\n" + packaged_text(EVALUATION, None)
    for path in options.models:
        with Model(path) as model:
            ids = model.tokenize(text)
            for depth in map(int, options.depths.split(",")):
                needed = depth + options.tokens
                tokens = (ids * (1 + needed // len(ids)))[:needed]
                reference = predictions(model, tokens, options.tokens, "f32", options.threads, flash=False)
                row = []
                for name in types:
                    found = predictions(model, tokens, options.tokens, name, options.threads)
                    row.append(float((np.exp(reference) * (reference - found)).sum(axis=1).mean()))
                print(f"{path.stem:<32}{depth:>8,}" + "".join(f"{value:>10.1e}" for value in row), flush=True)


def predictions(
    model: Model, tokens: list[int], rows: int, kv_type: str, threads: int, *, flash: bool = True
) -> np.ndarray[Any, Any]:
    """Return log-probabilities of the last `rows` tokens, (rows, vocabulary) float64."""
    spec = ContextSpec(
        len(tokens), n_batch=BATCH, n_threads=threads, kv_type=kv_type, n_outputs=rows, flash_attention=flash
    )
    with Context(model, spec) as context:
        depth = len(tokens) - rows
        for at in range(0, depth, BATCH):
            context.evaluate(tokens[at : min(at + BATCH, depth)], at)
        context.evaluate(tokens[depth:], depth, outputs=rows)
        return log_softmax(context.last_logits(rows), np.float64)


if __name__ == "__main__":
    main()
