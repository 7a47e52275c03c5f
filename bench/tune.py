"""The search of `qwen35 tune` against an exhaustive sweep of a small grid, for each goal, on a real model.

.venv/bin/python bench/tune.py [--model FILE] [--size 0.8b] [--quant Q4_K_M]

The sweep measures every combination once. Then for each goal the sweep's best, what the search found, and the defaults
are measured in turns; printed are ratios of medians, and how many different settings either side had to try.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from qwen35_gguf.runtime.llama import default_threads
from qwen35_gguf.runtime.settings import Settings
from qwen35_gguf.runtime.trial import Trials
from qwen35_gguf.runtime.tune import GOALS, Coordinate, Measurement, coordinates, score, search
from runtime import convert

GRID = ("threads", "threads_batch", "repack", "n_batch", "flash_attention")
N_CTX = 2048


def main() -> None:
    """Sweep, search, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        file = options.model or convert(Path(scratch), options.size, options.quant)
        cores = default_threads()
        listed = [c for c in coordinates(cores=cores, n_ctx=N_CTX) if c.name in GRID]
        with Trials(file, N_CTX, kept=2) as trials:
            compare(trials, listed, replace(Settings.default(), draft=False), options.rounds)


def compare(trials: Trials, listed: list[Coordinate], start: Settings, rounds: int) -> None:
    """Print a line for each goal."""
    grid = [
        replace(start, **dict(zip([c.name for c in listed], values, strict=True)))
        for values in itertools.product(*(c.values for c in listed))
    ]
    print(f"{len(grid)} combinations of {', '.join(f'{c.name} {list(c.values)}' for c in listed)}", flush=True)
    swept = {settings: trials.measure(settings) for settings in grid}
    for goal in GOALS:
        best = max(grid, key=lambda settings, goal=goal: score(swept[settings], goal))  # type: ignore[misc]
        found = search(start, listed, trials.measure, goal)
        sides = {"defaults": start, "tuned": found.settings, "sweep": best}
        seen: dict[str, list[Measurement]] = {side: [] for side in sides}
        for turn in range(rounds):
            order = list(sides)[:: -1 if turn % 2 else 1]
            for side in order:
                seen[side].append(trials.measure(sides[side]))
        rates = {side: statistics.median(score(one, goal) for one in many) for side, many in seen.items()}
        changed = {
            c.name: getattr(found.settings, c.name)
            for c in listed
            if getattr(found.settings, c.name) != getattr(start, c.name)
        }
        tuned = rates["tuned"]
        print(
            f"{goal:9} tuned {tuned:8,.1f} tokens/s, {tuned / rates['defaults']:.2f} times the defaults, "
            f"{tuned / rates['sweep']:.2f} times the sweep's best; "
            f"{found.trials} of {len(grid)} settings tried; {changed or 'the defaults stay'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
