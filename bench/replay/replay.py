"""What drafts gain on real texts: an edit of code, JSON, a chat in prose; and that `auto` is never slower than off.

.venv/bin/python bench/replay/replay.py [--model FILE] [--size 0.8b] [--quant Q4_K_M] [--threads 2] [--head 0,0.7,0.8]
    [--depths 0,8192] [--temperatures 0] [--tokens 400] [--rounds 3] [--texts code,JSON,prose,noise]

Random weights write nothing of use: so the answers are given. The logit of each token of an answer is raised to the top
before it is sampled, at its full cost, and so drafts are accepted as often as they are for a model that gives this
answer. N-grams draft by the prompt and the answer so far, as they are; earlier rounds are forgotten. What the MTP head
drafts is computed at its full cost and then replaced: by the right token as often as `--head` says, by a wrong one
otherwise; the rates of a trained head are not known here. "noise" is an answer of random tokens, of which no draft is
right: the worst case.

Without drafts (a context of its own, which cannot roll back) and `auto` take turns; the ratio is that of the seconds of
an answer, with the 95 % interval of its mean over rounds (Student's t). Greedy unless --temperatures says otherwise:
then the whole chain of samplers is applied. At a depth, that many tokens come before the prompt.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from texts import ROOT, Text, texts

from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.drafts import mtp
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.job import Job, Outcome
from qwen35_gguf.runtime.engine.sampling import RAW, Sampler, choose
from qwen35_gguf.runtime.engine.scheduler import Scheduler
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from runtime import convert

FILLER = ROOT / "qwen35_gguf" / "evaluation" / "texts" / "calibration.txt"
T_95 = {2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 11: 2.20, 14: 2.14, 19: 2.09, 29: 2.05}
NOISE = "noise"
WARM = 8  # tokens of the run that evaluates the prompt


@dataclass(frozen=True)
class Answer:
    """What is replayed.

    Attributes:
        name: of the kind of text.
        prompt: tokens.
        tokens: of the answer.

    """

    name: str
    prompt: list[int]
    tokens: list[int]


class _Row:
    """A row of logits in place of a context."""

    def __init__(self, logits: Any) -> None:
        self._logits = logits

    def logits(self, row: int) -> Any:
        """Return the row."""
        del row
        return self._logits


class Replaying(Sampler):
    """Samples from logits among which those of a given answer are the highest."""

    def replay(self, tokens: Sequence[int]) -> Replaying:
        """Set the answer."""
        self._answer = list(tokens)
        self._at = 0
        return self

    def sample(self, context: Any, row: int) -> int:
        """Choose the next token of the answer."""
        logits = context.logits(row).copy()
        logits[self._answer[self._at]] = logits.max() + 100
        self._at += 1
        return super().sample(_Row(logits), row)  # type: ignore[arg-type]


def main() -> None:
    """Print a row for each text, depth, temperature and rate of the head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--head", default="0,0.7,0.8", help="rates at which the head is right")
    parser.add_argument("--depths", default="0")
    parser.add_argument("--temperatures", default="0")
    parser.add_argument("--texts", default="code,JSON,prose,noise", help="beginnings of names")
    parser.add_argument("--no-ngrams", action="store_true", help="let the head draft alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        file = options.model or convert(Path(scratch), options.size, options.quant)
        with Model(file, ModelSpec(mtp=True)) as model:
            print(f"{file.name}, {options.threads} threads, off and auto take turns, {options.rounds} rounds")
            print(f"{'text':<12}{'depth':>7}{'T':>5}{'head':>6}{'off, tok/s':>12}{'auto':>8}{'ratio':>8}", end="")
            print(f"{'95 % interval':>16}{'drafted':>9}{'accepted':>9}")
            for depth in map(int, options.depths.split(",")):
                measure(model, depth, options)


def answers(model: Model, depth: int, options: argparse.Namespace) -> Iterator[Answer]:
    """Yield what is replayed behind `depth` tokens."""
    filler = model.tokenize(FILLER.read_text(encoding="utf-8"))
    before = (filler * (1 + depth // len(filler)))[:depth]
    for text in [*texts(), Text(NOISE, "", "")]:
        if not any(text.name.startswith(name) for name in options.texts.split(",")):
            continue
        rng = random.Random(0)
        made = [rng.randrange(model.n_vocab) for _ in range(options.tokens)]
        tokens = made if text.name == NOISE else model.tokenize(text.answer)
        yield Answer(text.name, before + (model.tokenize(text.prompt) or [1000]), tokens[: options.tokens])


def measure(model: Model, depth: int, options: argparse.Namespace) -> None:
    """Measure all texts behind a number of tokens."""
    found = list(answers(model, depth, options))
    n_ctx = max(len(each.prompt) + len(each.tokens) for each in found) + 16
    spec = ContextSpec(n_ctx, n_threads=options.threads)
    for answer in found:
        with (
            Scheduler(model, spec, draft=0) as off,
            Scheduler(model, spec, draft="auto", ngrams=not options.no_ngrams) as auto,
        ):
            for temperature in map(float, options.temperatures.split(",")):
                for head in map(float, options.head.split(",")):
                    print(row(model, answer, depth, temperature, head, (off, auto), options), flush=True)


def row(
    model: Model,
    answer: Answer,
    depth: int,
    temperature: float,
    head: float,
    sides: tuple[Scheduler, Scheduler],
    options: argparse.Namespace,
) -> str:
    """Compare both sides on an answer."""
    seconds: dict[Depth, list[float]] = {0: [], "auto": []}
    taken = (0, 0)
    with replaced_drafts(answer, head, model.n_vocab):
        for turn in range(options.rounds + 1):
            order: list[tuple[Scheduler, Depth]] = [(sides[0], 0), (sides[1], "auto")]
            for engine, kind in reversed(order) if turn % 2 else order:
                outcome = run(model, engine, answer, temperature, None if turn else WARM)
                if turn:  # the first evaluates the prompt
                    seconds[kind].append(outcome.seconds)
                    if kind == "auto":
                        taken = outcome.drafts.drafted, outcome.drafts.accepted
    ratios = np.log(np.array(seconds[0]) / np.array(seconds["auto"]))
    mean = float(ratios.mean())
    half = T_95.get(len(ratios) - 1, 2.0) * float(ratios.std(ddof=1)) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
    speeds = [len(answer.tokens) / statistics.median(seconds[kind]) for kind in (0, "auto")]
    interval = f"{np.exp(mean - half):.3f}-{np.exp(mean + half):.3f}"
    return (
        f"{answer.name:<12}{depth:>7}{temperature:>5.1f}{head:>6.0%}{speeds[0]:>12.1f}{speeds[1]:>8.1f}"
        f"{np.exp(mean):>8.3f}{interval:>16}{taken[0]:>9}{taken[1]:>9}"
    )


@contextmanager
def replaced_drafts(answer: Answer, rate: float, n_vocab: int) -> Iterator[None]:
    """Replace what the head drafts."""
    real, chance, first = mtp.draft, random.Random(0), len(answer.prompt)

    def draft(
        drafters: Sequence[mtp.Drafter], tokens: Sequence[int], positions: Sequence[int], depth: int, *rest: Any
    ) -> list[list[int]]:
        drafts = real(drafters, tokens, positions, depth, *rest)
        truth = answer.tokens[positions[0] - first + 1 :][:depth]
        return [[t if chance.random() < rate else (t + 1) % n_vocab for t in truth][: len(drafts[0])]]

    mtp.draft = draft
    try:
        yield
    finally:
        mtp.draft = real


def run(model: Model, engine: Scheduler, answer: Answer, temperature: float, count: int | None = None) -> Outcome:
    """Replay an answer, or its first tokens; return what became of the job."""
    tokens: list[int] = []
    results: list[Outcome | Exception] = []

    def take(token: int) -> tuple[int, ...]:
        tokens.append(token)
        return ()

    sampler = Replaying(model, choose(RAW, {}, {"temperature": temperature}), 0).replay(answer.tokens)
    engine._decoder.forget()  # each round is the first answer
    engine.run(Job(answer.prompt, sampler, count or len(answer.tokens), take, results.append))
    (result,) = results
    if isinstance(result, Exception):
        raise result
    if tokens != answer.tokens[:count]:
        raise SystemExit("the text changed")
    return result


if __name__ == "__main__":
    main()
