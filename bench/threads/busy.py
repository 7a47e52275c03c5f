"""Decode on a quiet machine and beside busy processes, with three ways for threads to wait, interleaved.

.venv/bin/python bench/threads/busy.py [--model FILE] [--size 0.8b] [--quant Q4_K_M] [--threads 2] [--loops 2]

With patch 0010 (Linux) the barrier within a call is ggml's own, and the ways differ only in how OpenMP waits between
the calls; a build without it shows what they do at every barrier. The ways: "default", how GNU's OpenMP waits if
nothing is set (it spins for 300,000 steps); "passive", which sleeps without spinning (OMP_WAIT_POLICY=PASSIVE); "ours",
which spins briefly and then sleeps (runtime/llama/openmp.py). Each is a process of its own that keeps its model; they
take turns, first all of them quiet, then with --loops processes beside them that count. Figures are tokens/s, the
median of the rounds, and how many cores the process had meanwhile: beside as many loops as threads, a fair scheduler
gives it half of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime import convert, rotated

WAYS: dict[str, dict[str, str]] = {
    "default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "ours": {},
}


class Run(NamedTuple):
    """Tokens/s, and processor seconds by seconds."""

    speed: float
    cores: float


def main() -> None:
    """Measure in turns; print the speeds and what share of the quiet speed is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loops", type=int, default=2, help="busy processes beside")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(options.model, options.threads, options.tokens)
        return
    runs: dict[tuple[str, int], list[Run]] = {(way, loops): [] for way in WAYS for loops in (0, options.loops)}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        model = options.model or convert(Path(scratch), options.size, options.quant)
        sides = {way: stack.enter_context(side(way, model, options)) for way in WAYS}
        for number in range(options.rounds):
            for loops in (0, options.loops):
                with busy_loops(loops):
                    for way in rotated(sides, number):
                        runs[way, loops].append(ask(sides[way]))
    report(model.name, runs, options)


def report(name: str, runs: dict[tuple[str, int], list[Run]], options: argparse.Namespace) -> None:
    """Print a row for each way to wait."""
    print(f"{name}, {options.threads} threads, {options.loops} busy loops, median of {options.rounds}")
    print(f"{'':<10}{'quiet':>8}{'cores':>7}{'busy':>8}{'cores':>7}{'left':>7}{'quiet, to default':>20}")
    median = {key: Run(*map(statistics.median, zip(*values, strict=True))) for key, values in runs.items()}
    for way in WAYS:
        quiet, busy = median[way, 0], median[way, options.loops]
        row = f"{way:<10}{quiet.speed:>8.1f}{quiet.cores:>7.2f}{busy.speed:>8.1f}{busy.cores:>7.2f}"
        print(f"{row}{busy.speed / quiet.speed:>7.0%}{quiet.speed / median['default', 0].speed:>20.3f}")


@contextmanager
def side(way: str, model: Path, options: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """Start a process that waits in that way; it answers each line of input with a speed."""
    command = [sys.executable, __file__, "--child", "--model", str(model)]
    command += ["--threads", str(options.threads), "--tokens", str(options.tokens)]
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    with subprocess.Popen(
        command, env=unset | WAYS[way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        ask(process)  # the first one loads the weights
        yield process
        process.kill()


def ask(process: subprocess.Popen[str]) -> Run:
    """Have it decode once."""
    assert process.stdin
    assert process.stdout
    print(file=process.stdin, flush=True)
    return Run(*map(float, process.stdout.readline().split()))


def serve(model: Path, threads: int, tokens: int) -> None:
    """Decode for each line of input."""
    from qwen35_gguf.runtime import Qwen35

    with Qwen35(model, n_ctx=1024, n_threads=threads) as loaded:
        for _ in sys.stdin:
            start, used = time.perf_counter(), time.process_time()
            loaded.generate("Once upon a time", max_tokens=tokens, temperature=0, draft=0)
            took = time.perf_counter() - start
            print(tokens / took, (time.process_time() - used) / took, flush=True)


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Keep that many processes counting meanwhile."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    time.sleep(0.5 if started else 0)
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
