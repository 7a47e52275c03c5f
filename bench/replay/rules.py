"""Which rule accepts most drafts of the MTP head at a temperature above 0: three rules on the same rows.

.venv/bin/python bench/replay/rules.py [--model FILE] [--tokens 3000]

The model (by default the demo) answers the questions of its evaluation text, sampled; at each token the main model's
distribution p and the head's q go through the same samplers. Means of the probability that a draft is accepted:

greedy     the draft is q's best token, and must be the token that is sampled: p(best of q)
coupled    both are chosen by the same random numbers (Gumbel-max): sum over x of 1 / sum over y of
           max(p(y) / p(x), q(y) / q(x)); the text does not depend on the drafts (Daliri et al. 2024)
rejection  the draft is sampled from q and accepted with min(1, p / q) (Leviathan et al. 2023): the sum of min(p, q),
           which no rule exceeds

For a draft that is no sample, rejection and "the draft must be the sample" accept equally often: q is 1 at the draft x,
so that min(1, p(x) / 1) = p(x).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.drafts.mtp import Drafter, head_context
from qwen35_gguf.runtime.engine.sampling import NOT_THINKING, RAW, THINKING, Sampling
from qwen35_gguf.runtime.llama.batch import Part
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model, ModelSpec

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "tiny-qwen3.5"
SETTINGS = {
    "T 1, all tokens": Sampling(temperature=1.0, top_p=1.0, top_k=0, presence_penalty=0.0),
    "T 1, top-k 20, top-p 0.95": RAW,
    "thinking (T 1, penalty 1.5)": THINKING,
    "not thinking (T 0.7, top-p 0.8, penalty 1.5)": NOT_THINKING,
}
Array = np.ndarray[Any, Any]


def main() -> None:
    """Print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--answer", type=int, default=60, help="tokens of an answer at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.model or hf_to_gguf.convert(DEMO, "F32", Path(folder))[0]
        with Model(file, ModelSpec(mtp=True)) as model:
            print(f"{'':<46}{'greedy':>9}{'coupled':>9}{'rejection':>10}{'entropy':>9}")
            for name, settings in SETTINGS.items():
                found = np.mean(list(rows(model, settings, options)), axis=0)
                print(f"{name:<46}{found[0]:>9.3f}{found[1]:>9.3f}{found[2]:>10.3f}{found[3]:>9.2f}", flush=True)


def prompts(model: Model) -> list[list[int]]:
    """Return the questions of the evaluation text."""
    text = (DEMO / "evaluation.txt").read_text(encoding="utf-8")
    parts = text.split("<|im_start|>user\n")[1:]
    questions = [part.split("<|im_end|>")[0] for part in parts if "<tool" not in part]
    head = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    return [model.tokenize(f"<|im_start|>user\n{question}<|im_end|>\n{head}") for question in questions]


def rows(model: Model, settings: Sampling, options: argparse.Namespace) -> Any:
    """Yield the acceptance by each rule, and p's entropy, of each token."""
    rng = np.random.default_rng(0)
    spec = ContextSpec(1024, n_threads=1, n_rs_seq=1, n_outputs=2)
    count = 0
    with Context(model, spec, hidden=True) as main, head_context(model, main) as head:
        drafter = Drafter(head, model.n_embd)
        for prompt in prompts(model) * 100:
            main.clear()
            drafter.clear()
            main.evaluate(prompt, 0, outputs=1)
            drafter.sync(prompt, 0, main.hidden(len(prompt)))
            tokens = list(prompt)
            token = pick(distribution(main.logits(-1), settings, tokens), rng)
            for _ in range(options.answer):
                if model.ends(token):
                    break
                position = len(tokens)
                tokens.append(token)
                q = distribution(head_row(head, drafter, token, position), settings, tokens)
                main.evaluate([token], position, outputs=1)
                p = distribution(main.logits(-1), settings, tokens)
                drafter.sync([token], position, main.hidden(1))
                yield float(p[q.argmax()]), coupled(p, q), float(np.minimum(p, q).sum()), entropy(p)
                token = pick(p, rng)
                count += 1
                if count == options.tokens:
                    return


def head_row(head: Context, drafter: Drafter, token: int, position: int) -> Array:
    """Return the head's logits after a token."""
    part = drafter.begin(token, position, head.n_batch)
    assert isinstance(part, Part)
    head.evaluate_parts([part])
    drafter.end(position, 1)
    return head.logits(len(part.tokens) - 1).astype(np.float64)


def distribution(logits: Array, settings: Sampling, tokens: list[int]) -> Array:
    """Return the probabilities after the samplers, (n_vocab,)."""
    row = logits.astype(np.float64)
    row[list(set(tokens[-1024:]))] -= settings.presence_penalty
    if settings.top_k:
        row[row < np.partition(row, -settings.top_k)[-settings.top_k]] = -np.inf
    p = np.exp(row - row.max())
    p /= p.sum()
    if settings.top_p < 1:
        order = np.argsort(-p)
        kept = order[: 1 + int(np.searchsorted(np.cumsum(p[order]), settings.top_p))]
        row[np.setdiff1d(np.arange(len(p)), kept)] = -np.inf
    p = np.exp((row - row.max()) / settings.temperature)
    return p / p.sum()


def pick(p: Array, rng: np.random.Generator) -> int:
    """Sample."""
    return int(rng.choice(len(p), p=p))


def coupled(p: Array, q: Array) -> float:
    """Return how often Gumbel-max with the same noise chooses the same token from p and q."""
    both = np.flatnonzero((p > 0) & (q > 0))
    if len(both) > 512:
        both = both[np.argsort(-np.minimum(p, q)[both])[:512]]
    with np.errstate(divide="ignore"):
        ratios = np.log(q) - np.log(p)
    order = np.argsort(ratios, kind="stable")  # where q / p is small p's part counts, elsewhere q's
    below = np.append(0, np.cumsum(np.where(p[order] > 0, p[order], 0)))
    above = np.append(np.cumsum(q[order][::-1])[::-1], 0)
    found = 0.0
    sorted_ratios = ratios[order]
    for x in both:
        at = int(np.searchsorted(sorted_ratios, ratios[x], side="right"))
        found += 1 / (below[at] / p[x] + above[at] / q[x])
    return float(found)


def entropy(p: Array) -> float:
    """Return nats."""
    kept = p[p > 0]
    return float(-(kept * np.log(kept)).sum())


if __name__ == "__main__":
    main()
