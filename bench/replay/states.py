"""What smaller copies of recurrent states cost: divergence from exact states while a text continues from copies.

.venv/bin/python bench/replay/states.py [--model FILE] [--tokens 2000] [--every 250] [--generated]

A text (of the packaged ones, or sampled from the model) is evaluated with exact states, and with all states
of the delta nets replaced every N tokens by what a copy as F16 or Q8_0 gives back, and by Q8_0 whose rounding errors
are passed on to the next values (error feedback). So the errors of all restores are in the last one. A control changes
the last bit of each value: what it costs is the model's own rounding. Printed are the bytes of a copy and the mean and
largest Kullback-Leibler divergence of a token, in nats.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from texts import ROOT

from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.forest import state_packing
from qwen35_gguf.runtime.engine.forest.state_packing import BLOCK, pack, unpack
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model
from runtime import convert

TEXT = ROOT / "qwen35_gguf" / "evaluation" / "texts" / "calibration.txt"
STEP = 25  # tokens of a call
Array = np.ndarray[Any, Any]


def main() -> None:
    """Print a row for each kind of copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--generated", action="store_true", help="let the model write the text, sampled")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        file = options.model or convert(Path(scratch), options.size, options.quant)
        with Model(file) as model:
            report(model, options)


def report(model: Model, options: argparse.Namespace) -> None:
    """Measure and print."""
    spec = ContextSpec(options.tokens + 64, n_threads=options.threads, n_outputs=STEP)
    kinds: dict[str, Callable[[Array], Array]] = {
        "f16": lambda state: unpack(pack(state, "f16"), "f16"),
        "q8_0": lambda state: unpack(pack(state, "q8_0"), "q8_0"),
        "q8_0, error feedback": fed_back,
        "f32, last bit changed": last_bit_changed,
    }
    with Context(model, spec) as exact:
        tokens = generated(model, exact, options.tokens) if options.generated else model.tokenize(TEXT.read_text())
        tokens = tokens[: options.tokens]
        others = {name: Context(model, spec) for name in kinds}
        losses: dict[str, list[float]] = {name: [] for name in kinds}
        exact.clear()
        for start in range(0, len(tokens), STEP):
            part = tokens[start : start + STEP]
            exact.evaluate(part, start, outputs=len(part))
            expected = log_softmax(exact.last_logits(len(part)))
            for name, context in others.items():
                if start and start % options.every == 0:
                    state = context.state(partial=True)
                    if not context.restore(kinds[name](state), partial=True):
                        raise SystemExit("llama.cpp refuses the state")
                context.evaluate(part, start, outputs=len(part))
                found = log_softmax(context.last_logits(len(part)))
                losses[name] += (np.exp(expected) * (expected - found)).sum(axis=1).tolist()
        state = exact.state(partial=True)
        print(f"{len(tokens):,} tokens, a copy restored every {options.every}; f32: {state.nbytes:,} bytes")
        for name, context in others.items():
            size = state.nbytes if name.startswith("f32") else pack(state, name.partition(",")[0]).nbytes
            after = np.array(losses[name][options.every :])
            print(f"{name:<22}{size:>12,} bytes  mean {after.mean():.2e}  largest {after.max():.2e}")
            context.close()


def fed_back(state: Array) -> Array:
    """Round to Q8_0, and add the error of each value to the next one of its block before that is rounded."""
    found, layers = layers_of(state)
    blocks = np.ascontiguousarray(layers[:, 12:]).view(np.float32).reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1) / 127
    scales[scales == 0] = 1
    error = np.zeros(len(blocks), np.float32)
    rounded = np.empty_like(blocks)
    for column in range(BLOCK):
        wanted = blocks[:, column] + error
        rounded[:, column] = np.clip(np.rint(wanted / scales), -127, 127) * scales
        error = wanted - rounded[:, column]
    layers[:, 12:] = rounded.reshape(len(layers), -1).view(np.uint8)
    return found


def last_bit_changed(state: Array) -> Array:
    """Make each value the next larger one."""
    found, layers = layers_of(state)
    values = np.ascontiguousarray(layers[:, 12:]).view(np.float32)
    layers[:, 12:] = np.nextafter(values, np.float32(np.inf)).view(np.uint8)
    return found


def layers_of(state: Array) -> tuple[Array, Array]:
    """Return a copy of a state, and a view of its delta nets: (layers, 12 bytes before the values of each, in F32)."""
    start, count, size = state_packing._matrices(state)
    found = state.copy()
    return found, found[start:].reshape(count, 12 + size)


def generated(model: Model, context: Context, count: int) -> list[int]:
    """Sample a text."""
    rng = np.random.default_rng(0)
    tokens = model.tokenize("Once")[:1] or [1000]
    while len(tokens) < count:
        context.evaluate(tokens[-1:], len(tokens) - 1, outputs=1)
        p = np.exp(log_softmax(context.last_logits(1))[0])
        tokens.append(int(rng.choice(len(p), p=p / p.sum())))
    return tokens


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities, (rows, n_vocab) float64."""
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


if __name__ == "__main__":
    main()
