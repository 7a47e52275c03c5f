"""What speculative decoding with the MTP head gains, as a function of the acceptance rate.

.venv/bin/python bench/speculation.py [--model FILE] [--size 0.8b] [--quant Q4_K_M] [--threads 2] [--tokens 192]

The costs of a step and of a draft are measured; a predicted speed-up at each acceptance rate follows from them. Then
the speed-up is measured: the text is generated once without drafts; afterwards the head still drafts, at its full cost,
but its drafts are replaced by the known tokens at the given acceptance rate, and by a wrong token otherwise. Off (a
context of its own, which cannot roll back tokens) and `auto` are interleaved, and the text must be the same.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.drafts import mtp
from qwen35_gguf.runtime.engine.drafts.draft_depth import MAX_DEPTH, Depth, best_depth, speed_up
from qwen35_gguf.runtime.engine.drafts.measured_costs import measure_costs
from qwen35_gguf.runtime.engine.job import Job, Outcome
from qwen35_gguf.runtime.engine.sampling import RAW, Sampler, choose
from qwen35_gguf.runtime.engine.scheduler import Scheduler
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from runtime import convert

ACCEPTANCE = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)
N_CTX = 4096


def main() -> None:
    """Print the costs, and a row for each acceptance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        spec = ContextSpec(N_CTX, n_threads=options.threads)
        file = options.model or convert(Path(scratch), options.size, options.quant)
        with (
            Model(file, ModelSpec(mtp=True)) as model,
            Scheduler(model, spec, draft=0) as off,
            Scheduler(model, spec, draft="auto", ngrams=False) as auto,
        ):
            report(file.name, model, off, auto, options)


def report(name: str, model: Model, off: Scheduler, auto: Scheduler, options: argparse.Namespace) -> None:
    """Measure and print."""
    drafter = auto.forest.sequences[0].drafter
    assert drafter is not None
    measured = [measure_costs(auto.main, drafter, MAX_DEPTH) for _ in range(5)]
    verify = [statistics.median(steps) for steps in zip(*(each.verify for each in measured), strict=True)]
    draft = statistics.median(each.draft for each in measured)
    steps = ", ".join(f"{1e3 * seconds:.1f}" for seconds in verify)
    print(f"{name}, {options.threads} threads: steps of 1 to 5 tokens {steps} ms, a draft {1e3 * draft:.1f} ms")
    known, _ = generate(model, off, 0, options.tokens)
    real = mtp.draft
    print(f"{'right':>6}{'  predicted at depth 1, 2, 3, 4':<36}{'best':>5}{'auto, measured':>16}{'accepted':>10}")
    for acceptance in ACCEPTANCE:
        chance = random.Random(0)

        def draft_some(
            drafters: Sequence[mtp.Drafter],
            tokens: Sequence[int],
            positions: Sequence[int],
            depth: int,
            choose: Sequence[mtp.Choose] | None = None,
            *,
            p: float = acceptance,
            c: random.Random = chance,
        ) -> list[list[int]]:
            drafts = real(drafters, tokens, positions, depth, choose)
            truth = known[positions[0] : positions[0] + depth]
            return [[t if c.random() < p else (t + 1) % model.n_vocab for t in truth][: len(drafts[0])]]

        mtp.draft = draft_some
        ratios = []
        for turn in range(options.rounds):
            sides: list[tuple[Scheduler, Depth]] = [(off, 0), (auto, "auto")]
            outcomes = {}
            for engine, depth in reversed(sides) if turn % 2 else sides:
                tokens, outcomes[depth] = generate(model, engine, depth, options.tokens)
                if tokens != known:
                    raise SystemExit("the text changed")
            ratios.append(outcomes[0].seconds / outcomes["auto"].seconds)
        places = [acceptance] * MAX_DEPTH
        predicted = "".join(f"{speed_up(verify, draft, places, depth):>7.2f}" for depth in range(1, MAX_DEPTH + 1))
        counts = outcomes["auto"].drafts
        taken = f"{counts.accepted}/{counts.drafted}"
        best = best_depth(verify, draft, places)
        mtp.draft = real
        print(f"{acceptance:>6.0%}{predicted:<36}{best:>5}{statistics.median(ratios):>16.2f}{taken:>10}", flush=True)


def generate(model: Model, engine: Scheduler, depth: Depth, count: int) -> tuple[list[int], Outcome]:
    """Generate greedily after one token; return the tokens and what became of the job."""
    tokens: list[int] = []
    results: list[Outcome | Exception] = []

    def take(token: int) -> tuple[int, ...]:
        tokens.append(token)
        return ()

    sampler = Sampler(model, choose(RAW, {}, {"temperature": 0.0}), 0)
    engine.run(Job([1000], sampler, count, take, results.append, depth=depth))
    (result,) = results
    if isinstance(result, Exception):
        raise result
    return tokens, result


if __name__ == "__main__":
    main()
