"""The search of `qwen35 tune` against an exhaustive sweep of a small grid, for each goal, on a real model.

.venv/bin/python bench/tune.py [--model FILE] [--size 0.8b] [--quant Q4_K_M] [--device NAME]... [--rpc HOST:PORT]...

The sweep measures every combination once. Then, for each goal, the sweep's best, the search's result and the defaults
are measured in turns; printed are ratios of medians and the number of settings that each had to try. With devices (by
default this machine's GPUs; --device cpu for none) the combinations are those of placements and threads.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.settings import Settings
from qwen35_gguf.runtime.tuning.search import GOALS, Coordinate, Measurement, coordinates, score, search
from qwen35_gguf.runtime.tuning.trial import Trials
from runtime import convert

GRID = ("threads", "threads_batch", "repack", "n_batch", "flash_attention")
GRID_WITH_DEVICES = ("split", "gpu_layers", "host_feed_forward", "threads")
N_CTX = 2048


def main() -> None:
    """Sweep, search, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", action="append", default=[], help="a GPU of this machine, or cpu for none")
    parser.add_argument("--rpc", action="append", default=[], help="an RPC server: host:port")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        file = options.model or convert(Path(scratch), options.size, options.quant)
        cores, gpus = default_threads(), offload.find(options.device, options.rpc)
        layers = offload.most_layers(read_header(file))
        with Trials(file, N_CTX, options.device, options.rpc, gpus, available_bytes()) as trials:
            names = GRID_WITH_DEVICES if gpus else GRID
            found = coordinates(cores=cores, n_ctx=N_CTX, devices=len(gpus), layers=layers, rank=trials.rank)
            listed = [coordinate for coordinate in found if coordinate.name in names]
            compare(trials, listed, replace(Settings.default(), draft=False), options.rounds)


def combinations(trials: Trials, listed: list[Coordinate], start: Settings) -> list[Settings]:
    """Combine all values; of combinations with the same effect, keep one."""
    values = {coordinate.name: coordinate.values for coordinate in listed}
    grid = [replace(start, **dict(zip(values, chosen, strict=True))) for chosen in itertools.product(*values.values())]
    return list({trials.effect(settings): settings for settings in grid}.values())


def compare(trials: Trials, listed: list[Coordinate], start: Settings, rounds: int) -> None:
    """Print a line for each goal."""
    grid = combinations(trials, listed, start)
    print(f"{len(grid)} combinations of {', '.join(f'{c.name} {list(c.values)}' for c in listed)}", flush=True)
    swept = {settings: trials.measure(settings) for settings in grid}
    for goal in GOALS:
        best = max(grid, key=lambda settings, goal=goal: score(swept[settings], goal))  # type: ignore[misc]
        found = search(start, listed, trials.measure, goal, effect=trials.effect)
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
