"""A long run does not drift: the states after 8,192 tokens, one by one, are those of evaluating them anew."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest

from oracles.paths import TINY
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model

TOKENS, LAST = 8192, 64
pytestmark = pytest.mark.slow


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def divergence(ones: np.ndarray, others: np.ndarray) -> float:
    """Return the mean KL divergence of logits from others, in nats."""
    one, other = log_softmax(ones), log_softmax(others)
    return float((np.exp(other) * (other - one)).sum(-1).mean())


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the norm of the difference of two states, relative to the second."""
    a, b = (state[: state.nbytes // 4 * 4].view(np.float32).astype(np.float64) for state in (one, other))
    known = np.isfinite(a) & np.isfinite(b)
    return float(np.linalg.norm((a - b)[known]) / np.linalg.norm(b[known]))


def evaluated(model: Model, tokens: list[int], n_batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last logits and the states of an evaluation in batches of that size."""
    with Context(
        model, ContextSpec(TOKENS + 256, n_batch=n_batch, n_threads=1, kv_type="f32", n_outputs=LAST)
    ) as context:
        end = len(tokens) - LAST
        for start in range(0, end, n_batch):
            context.evaluate(tokens[start : min(start + n_batch, end)], start, outputs=1)
        context.evaluate(tokens[end:], end, outputs=LAST)
        return context.last_logits(LAST).copy(), context.state(partial=True)


@pytest.mark.parametrize("quant", ["F32", "Q4_K_M"])
def test_states_after_a_long_run(tmp_path: Path, quant: str) -> None:
    """Single tokens and blocks of them are computed in another order, and with quantized weights that moves activations
    to other steps of 8 bits. What this costs is measured by evaluating the same tokens in other batches: a long run may
    be no further away than a few times that.
    """
    path = hf_to_gguf.convert(TINY, quant, tmp_path, vision=False)[0]
    random = np.random.default_rng(0)
    spec = ContextSpec(TOKENS + 256, n_batch=512, n_threads=1, kv_type="f32")
    with Model(path) as model:
        with Context(model, spec) as stepwise:
            tokens, logits = model.tokenize("Once upon a time"), deque[np.ndarray](maxlen=LAST)
            stepwise.evaluate(tokens, 0, outputs=1)
            while len(tokens) < TOKENS:
                logits.append(stepwise.logits(-1).copy())
                tokens.append(int((logits[-1] + random.gumbel(size=len(logits[-1]))).argmax()))
                stepwise.evaluate(tokens[-1:], len(tokens) - 1, outputs=1)
            logits.append(stepwise.logits(-1).copy())
            run = np.stack(logits), stepwise.state(partial=True)
        anew, other = evaluated(model, tokens, 512), evaluated(model, tokens, 96)
    assert np.isfinite(run[0]).all()
    of_run, of_order = ([divergence(x[0], anew[0]), distance(x[1], anew[1])] for x in (run, other))
    print(f"{quant}: KL divergence and distance of the states {of_run}, of another order {of_order}")
    assert of_run[0] <= 4 * of_order[0] + 1e-8
    assert of_run[1] <= 4 * of_order[1] + 1e-6
