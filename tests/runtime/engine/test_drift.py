"""A long run does not drift: the states after 8,192 tokens, one by one, are those of evaluating them anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oracles.paths import TINY
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model

TOKENS = 8192
# KL divergence in nats: single tokens and blocks of them are computed in another order, and with quantized weights that
# moves activations to other steps of 8 bits.
MOST = {"F32": 1e-4, "Q4_K_M": 1e-3}
pytestmark = pytest.mark.slow


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("quant", MOST)
def test_states_after_a_long_run(tmp_path: Path, quant: str) -> None:
    path = hf_to_gguf.convert(TINY, quant, tmp_path, vision=False)[0]
    random = np.random.default_rng(0)
    spec = ContextSpec(TOKENS + 256, n_batch=512, n_threads=1, kv_type="f32")
    with Model(path) as model, Context(model, spec) as stepwise, Context(model, spec) as anew:
        tokens = model.tokenize("Once upon a time")
        stepwise.evaluate(tokens, 0, outputs=1)
        while len(tokens) < TOKENS:
            logits = stepwise.logits(-1)
            tokens.append(int((logits + random.gumbel(size=len(logits))).argmax()))
            stepwise.evaluate(tokens[-1:], len(tokens) - 1, outputs=1)
        for start in range(0, TOKENS, spec.n_batch):
            anew.evaluate(tokens[start : start + spec.n_batch], start, outputs=1)
        one, other = log_softmax(stepwise.logits(-1)), log_softmax(anew.logits(-1))
        assert np.isfinite(one).all()
        divergence = (np.exp(other) * (other - one)).sum()
        states = [context.state(partial=True) for context in (stepwise, anew)]
        a, b = (state[: state.nbytes // 4 * 4].view(np.float32).astype(np.float64) for state in states)
        known = np.isfinite(a) & np.isfinite(b)
        distance = np.linalg.norm((a - b)[known]) / np.linalg.norm(b[known])
        print(f"{quant}: KL divergence {divergence:.2g}, distance of the states {distance:.2g}")
        assert divergence < MOST[quant]
        assert distance < 0.02
