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

TOKENS, SHORT, LAST = 8192, 256, 64
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


def evaluated(model: Model, spec: ContextSpec, tokens: list[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last logits and the states; the last tokens are evaluated in steps of one."""
    with Context(model, spec) as context:
        end = len(tokens) - max(steps, LAST)
        for start in range(0, end, spec.n_batch):
            context.evaluate(tokens[start : min(start + spec.n_batch, end)], start, outputs=1)
        if not steps:
            context.evaluate(tokens[end:], end, outputs=LAST)
            return context.last_logits(LAST).copy(), context.state(partial=True)
        logits = deque[np.ndarray](maxlen=LAST)
        for at in range(end, len(tokens)):
            context.evaluate([tokens[at]], at, outputs=1)
            logits.append(context.logits(-1).copy())
        return np.stack(logits), context.state(partial=True)


@pytest.mark.parametrize("quant", ["F32", "Q4_K_M"])
def test_states_after_a_long_run(tmp_path: Path, quant: str) -> None:
    """Single tokens and blocks of them are computed in another order, and with quantized weights that moves activations
    to other steps of 8 bits. What this costs is measured over a short run: a long one may cost a few times that.
    """
    path = hf_to_gguf.convert(TINY, quant, tmp_path, vision=False)[0]
    random = np.random.default_rng(0)
    spec = ContextSpec(TOKENS + 256, n_batch=512, n_threads=1, kv_type="f32", n_outputs=LAST)
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
        anew, short = (evaluated(model, spec, tokens, steps) for steps in (0, SHORT))
    assert np.isfinite(run[0]).all()
    long_run, short_run = ([divergence(x[0], anew[0]), distance(x[1], anew[1])] for x in (run, short))
    print(f"{quant}: KL divergence and distance of the states {long_run}, of a short run {short_run}")
    assert long_run[0] <= 4 * short_run[0] + 1e-8
    assert long_run[1] <= 4 * short_run[1] + 1e-6
