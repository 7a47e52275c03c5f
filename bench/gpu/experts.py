"""A mixture of experts that is larger than the device's free memory: `tune` against the defaults and against a sweep.

Another process holds the rest of the device. The search is that of `qwen35 tune`; the sweep measures combinations of
layers on the device, feed-forward networks on the CPU and threads once each, as far as its time allows. Then defaults,
tuned and the sweep's best are measured in turns.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import replace
from typing import Any

from memory import held
from stage import Results, Setup

from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.settings import Settings
from qwen35_gguf.runtime.tuning.search import Goal, Measurement, Race, coordinates, score, search
from qwen35_gguf.runtime.tuning.trial import Trials

N_CTX = 4096
LEFT = 4 << 30  # bytes of the device
TUNE, SWEEP = 90, 90  # seconds
TURNS = 2


def experts(setup: Setup, results: Results, goal: Goal = "balanced") -> None:
    """Tune, sweep, compare."""
    file = setup.model("35B-A3B")
    layers = offload.most_layers(read_header(file))
    with held(LEFT, setup.device()):
        gpus = setup.find()
        cores = default_threads()
        with Trials(file, N_CTX, setup.devices, setup.rpc, gpus, available_bytes()) as trials:
            start = replace(Settings.default(), draft=False)
            results.add(layers=layers, defaults=str(trials.place(start)), free_mib=gpus[0].free >> 20)
            listed = coordinates(cores=cores, n_ctx=N_CTX, devices=1, layers=layers, rank=trials.rank)

            def told(race: Race) -> None:
                value = getattr(race.challenger, race.changed)
                seen = race.seen[-1]
                results.add(
                    raced=f"{race.changed}={value}",
                    ratio=race.ratio,
                    won=race.won,
                    prefill=seen.prefill,
                    decode=seen.decode,
                    problem=race.problem,
                )

            begin = time.monotonic()
            first = trials.measure(start)
            results.add(defaults="measured", prefill=first.prefill, decode=first.decode, problem=first.problem)
            found = search(
                start,
                listed,
                trials.measure,
                goal,
                deadline=begin + TUNE,
                effect=trials.effect,
                on_race=told,
            )
            results.add(tuned=changes(start, found.settings), gain=found.gain, seconds=time.monotonic() - begin)
            swept = sweep(trials, start, layers, cores, results)
            best = max(swept, key=lambda settings: score(swept[settings], goal))
            sides = {"defaults": start, "tuned": found.settings, "sweep": best}
            seen: dict[str, list[Measurement]] = {side: [] for side in sides}
            for turn in range(TURNS):
                for side in list(sides)[:: -1 if turn % 2 else 1]:
                    seen[side].append(trials.measure(sides[side]))
            for side, many in seen.items():
                results.add(
                    side=side,
                    changed=changes(start, sides[side]),
                    score=statistics.median(score(one, goal) for one in many),
                    prefill=statistics.median(one.prefill for one in many),
                    decode=statistics.median(one.decode for one in many),
                    placed=str(trials.place(sides[side])),
                )


def sweep(trials: Trials, start: Settings, layers: int, cores: int, results: Results) -> dict[Settings, Measurement]:
    """Measure a grid once, until the time is over."""
    grid: list[Settings] = [start]
    shares = itertools.product((layers, layers // 2, 0), (layers, layers // 2, 0), sorted({cores, cores // 2, 1}))
    for count, on_cpu, threads in shares:
        if count or not on_cpu:
            changed: dict[str, Any] = {"threads": threads, "threads_batch": cores}
            grid.append(replace(start, gpu_layers=count, host_feed_forward=on_cpu, **changed))
    grid = list({trials.effect(settings): settings for settings in grid if settings.threads > 1}.values())
    deadline, found = time.monotonic() + SWEEP, dict[Settings, Measurement]()
    for settings in grid:
        if time.monotonic() > deadline:
            break
        seen = found[settings] = trials.measure(settings)
        results.add(swept=changes(start, settings), prefill=seen.prefill, decode=seen.decode, problem=seen.problem[:60])
    results.add(swept=f"{len(found)} of {len(grid)}")
    return found


def changes(start: Settings, settings: Settings) -> str:
    """Write what differs from the defaults."""
    names = [name for name in vars(start) if getattr(start, name) != getattr(settings, name)]
    return " ".join(f"{name}={getattr(settings, name)}" for name in names) or "the defaults"
