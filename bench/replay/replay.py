"""What drafts gain on real texts: an edit of code, JSON, a chat in prose; and that `auto` is never slower than off.

.venv/bin/python bench/replay/replay.py [--model FILE] [--size 0.8b] [--quant Q4_K_M] [--threads 2] [--head 0,0.7,0.8]
    [--depths 0,8192] [--temperatures 0] [--tokens 400] [--rounds 3] [--texts code,JSON,prose,noise] [--own-head off]
    [--states FOLDER] [--results FILE] [--seconds N]

Random weights write nothing of use: so the answers are given. The logit of each token of an answer is raised to the top
before it is sampled, at its full cost, and so drafts are accepted as often as they are for a model that gives this
answer. N-grams draft by the prompt and the answer so far, as they are; of earlier rounds only how often drafts were
right is known. What the MTP head drafts is computed at its full cost and then replaced: by the right token as often as
`--head` says, by a wrong one otherwise, or if its row was not read; the rates of a trained head are not known here.
"noise" is an answer of random tokens, of which no draft is right: the worst case. `--own-head off` is a file without a
head.

Without drafts (a context of its own, which cannot roll back) and `auto` give the same answer together, step by step in
turns, so that what else the machine does slows both alike. Of each the seconds of its own steps count, from the first
token on; the ratio has the 95 % interval of its mean over rounds (Student's t). Greedy unless --temperatures says
otherwise: then the whole chain of samplers is applied. At a depth, that many tokens come before the prompt.

`--states` keeps the state after what comes before the prompts, `--results` the seconds of all rounds, of which the
table is printed: so a measurement can be made in parts, each of at most `--seconds`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
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
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
from qwen35_gguf.runtime.engine.job import Job, Outcome
from qwen35_gguf.runtime.engine.sampling import RAW, Sampler, choose
from qwen35_gguf.runtime.engine.scheduler import Scheduler
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from runtime import convert

FILLER = ROOT / "qwen35_gguf" / "evaluation" / "texts" / "calibration.txt"
T_95 = {
    1: 12.71,
    2: 4.30,
    3: 3.18,
    4: 2.78,
    5: 2.57,
    6: 2.45,
    7: 2.36,
    8: 2.31,
    9: 2.26,
    11: 2.20,
    14: 2.14,
    19: 2.09,
    29: 2.05,
}
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
    parser.add_argument("--own-head", choices=("on", "off"), default="on", help="off: n-grams draft alone")
    parser.add_argument("--states", type=Path, help="keep what is known after prompts in this folder")
    parser.add_argument("--results", type=Path, help="add rounds to those of this file")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no round after as many")
    parser.add_argument("--no-ngrams", action="store_true", help="let the head draft alone")
    options = parser.parse_args()
    options.end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as scratch:
        file = options.model or convert(Path(scratch), options.size, options.quant)
        with Model(file, ModelSpec(mtp=options.own_head == "on")) as model:
            print(f"{file.name}, {options.threads} threads, off and auto take turns step by step")
            print(f"{'text':<12}{'depth':>7}{'T':>5}{'head':>6}{'off, tok/s':>12}{'auto':>8}{'ratio':>8}", end="")
            print(f"{'95 % interval':>16}{'rounds':>7}{'drafted':>9}{'accepted':>9}")
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
    if depth and options.states is not None:
        keep_filler(model, spec, found[0].prompt[:depth], options)
    for answer in found:
        with (
            Scheduler(model, spec, draft=0, store=store(options)) as off,
            Scheduler(model, spec, draft="auto", ngrams=not options.no_ngrams, store=store(options)) as auto,
        ):
            for temperature in map(float, options.temperatures.split(",")):
                for head in map(float, options.head.split(",")):
                    name = f"{answer.name:<12}{depth:>7}{temperature:>5.1f}{head:>6.0%}"
                    rounds = Rounds(options.results, f"{name} {len(answer.tokens)} {options.own_head}")
                    with replaced_drafts(answer, head, model.n_vocab):
                        take(model, answer, temperature, (off, auto), rounds, options)
                    print(name + rounds.row(len(answer.tokens)), flush=True)


def store(options: argparse.Namespace) -> StateStore | None:
    """Return where states are kept between runs."""
    return (
        None if options.states is None else StateStore(options.states, f"{options.model} {options.own_head}", 8 << 30)
    )


def keep_filler(model: Model, spec: ContextSpec, tokens: Sequence[int], options: argparse.Namespace) -> None:
    """Evaluate what comes before all prompts, unless its state is there."""
    with Scheduler(model, spec, draft=0, store=store(options)) as engine:
        states = engine.forest.store
        if states is None or states.covers(tokens) == len(tokens):
            return
        sampler = Sampler(model, choose(RAW, {}, {"temperature": 0.0}), 0)
        engine.run(Job(tokens, sampler, 1, lambda _: ()))
        engine.forest.sequences[0].save(states, 1)
        states.flush()


class Rounds:
    """The rounds of a row: seconds without drafts, seconds of `auto`, drafted and accepted tokens of each."""

    def __init__(self, file: Path | None, name: str) -> None:
        """Begin with the rounds that a file has for this name."""
        self._file, self._name = file, name
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
        self.found: list[list[float]] = [each for key, each in map(json.loads, lines) if key == name]

    def add(self, *values: float) -> None:
        """Add a round, and write it to the file."""
        self.found.append([*values])
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps([self._name, values]) + "\n")

    def row(self, tokens: int) -> str:
        """Return the row of the table."""
        if not self.found:
            return ""
        off, auto, drafted, accepted = np.array(self.found).T
        ratios = np.log(off / auto)
        mean, count = float(ratios.mean()), len(ratios)
        half = T_95.get(count - 1, 2.0) * float(ratios.std(ddof=1)) / count**0.5 if count > 1 else 0.0
        speeds = [(tokens - 1) / statistics.median(seconds) for seconds in (off, auto)]
        interval = f"{np.exp(mean - half):.3f}-{np.exp(mean + half):.3f}"
        return (
            f"{speeds[0]:>12.1f}{speeds[1]:>8.1f}{np.exp(mean):>8.3f}{interval:>16}{count:>7}"
            f"{drafted.mean():>9.0f}{accepted.mean():>9.0f}"
        )


def take(
    model: Model,
    answer: Answer,
    temperature: float,
    sides: tuple[Scheduler, Scheduler],
    rounds: Rounds,
    options: argparse.Namespace,
) -> None:
    """Take the rounds that are missing; the first run evaluates the prompt, and does not count."""
    if len(rounds.found) >= max(1, options.rounds) or time.monotonic() > options.end:
        return
    replay(model, answer, temperature, sides, WARM)
    while len(rounds.found) < options.rounds and time.monotonic() < options.end:
        order = sides if len(rounds.found) % 2 else sides[::-1]
        (off, _), (auto, outcome) = replay(model, answer, temperature, order)[:: 1 if order is sides else -1]
        rounds.add(off, auto, outcome.drafts.drafted, outcome.drafts.accepted)


@contextmanager
def replaced_drafts(answer: Answer, rate: float, n_vocab: int) -> Iterator[None]:
    """Replace what the head drafts."""
    real, chance, first = mtp.draft, random.Random(0), len(answer.prompt)

    def draft(
        drafters: Sequence[mtp.Drafter], tokens: Sequence[int], positions: Sequence[int], depth: int, *rest: Any
    ) -> list[list[int]]:
        drafts = real(drafters, tokens, positions, depth, *rest)
        truth = answer.tokens[positions[0] - first + 1 :][:depth]
        read = drafters[0].head.draft_rows or n_vocab
        right = [chance.random() < rate and token < read for token in truth]
        return [[t if its else (t + 1) % n_vocab for t, its in zip(truth, right, strict=True)][: len(drafts[0])]]

    mtp.draft = draft
    try:
        yield
    finally:
        mtp.draft = real


class Replay:
    """An answer that an engine is giving.

    Attributes:
        seconds: of its steps so far, from the first token on.
        result: what became of it; None while it is being given.

    """

    def __init__(self, model: Model, engine: Scheduler, answer: Answer, temperature: float, count: int) -> None:
        """Begin without earlier answers to draft from."""
        self.seconds, self.result = 0.0, None
        self._engine, self._tokens = engine, list[int]()
        self._expected = answer.tokens[:count]
        sampler = Replaying(model, choose(RAW, {}, {"temperature": temperature}), 0).replay(answer.tokens)
        engine._decoder.forget()
        engine.add(Job(answer.prompt, sampler, count, self._take, self._done))

    def _take(self, token: int) -> tuple[int, ...]:
        self._tokens.append(token)
        return ()

    def _done(self, result: Outcome | Exception) -> None:
        self.result: Outcome | Exception | None = result

    def step(self) -> None:
        """Take a step of the engine."""
        counts, start = bool(self._tokens), time.perf_counter()
        self._engine.step()
        self.seconds += time.perf_counter() - start if counts else 0.0

    def outcome(self) -> Outcome:
        """Return what became of it."""
        if not isinstance(self.result, Outcome):
            raise SystemExit(f"an answer was not given: {self.result}")
        if self._tokens != self._expected:
            raise SystemExit("the text changed")
        return self.result


def replay(
    model: Model, answer: Answer, temperature: float, engines: Sequence[Scheduler], count: int | None = None
) -> list[tuple[float, Outcome]]:
    """Let engines give an answer, or its first tokens, in turns; return the seconds of each and its outcome."""
    runs = [Replay(model, engine, answer, temperature, count or len(answer.tokens)) for engine in engines]
    while any(run.result is None for run in runs):
        for run in runs:
            if run.result is None:
                run.step()
        runs.reverse()
    ordered = {id(run._engine): run for run in runs}
    found = [ordered[id(engine)] for engine in engines]
    return [(run.seconds, run.outcome()) for run in found]


if __name__ == "__main__":
    main()
