"""A release of several quants from one pass, against one conversion for each, in turns: time, processor time, reads.

.venv/bin/python bench/package.py [--size 0.8b] [--quants Q4_K_M,Q5_K_M,Q8_0] [--rounds 3]

Both sides write the same tensors; the release also hashes the weights and every file, and lints the files. "Read" are
the bytes of weights read from the checkpoint, counted each time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.release import package
from qwen35_gguf.release.package import PackageOptions
from qwen35_gguf.release.plan import FromCheckpoint

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock and of the processor, and bytes of weights read."""

    wall: float
    processor: float
    read: int


def main() -> None:
    """Make a checkpoint, run both in turns, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quants", default="Q4_K_M,Q5_K_M,Q8_0")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    quants = tuple(options.quants.split(","))
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "checkpoint"), Path(scratch, "out")
        make = [sys.executable, str(ROOT / "examples" / "make_checkpoint.py"), str(source), "--size", options.size]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)

        def one_by_one() -> None:
            for number, quant in enumerate(quants):
                hf_to_gguf.convert(source, quant, out, vision=not number)

        def one_pass(lint: bool) -> Callable[[], object]:
            steps = PackageOptions(measure=False, lint=lint)
            return lambda: package.package(FromCheckpoint(str(source), quants), out, steps)

        sides = {"conversions": one_by_one, "release": one_pass(True), "release, no lint": one_pass(False)}
        found: dict[str, list[Cost]] = {side: [] for side in sides}
        for turn in range(options.rounds):
            for side in list(sides)[:: -1 if turn % 2 else 1]:
                found[side].append(measured(sides[side]))
                shutil.rmtree(out)
    print(f"{options.size} to {', '.join(quants)}, median of {options.rounds}")
    first = found["conversions"]
    for side, costs in found.items():
        wall, processor = (statistics.median(getattr(cost, name) for cost in costs) for name in ("wall", "processor"))
        ratio = statistics.median(cost.wall for cost in first) / wall
        read = costs[0].read / 1e6
        print(f"{side:<17} {wall:6.1f} s, {processor:6.1f} s CPU, {read:8,.0f} MB read, {ratio:.2f} times")


def measured(run: Callable[[], object]) -> Cost:
    """Run something in silence and count."""
    read = 0
    real = Checkpoint.read

    def counting(checkpoint: Checkpoint, name: str) -> object:
        nonlocal read
        stored = checkpoint.tensors[name]
        read += stored.stop - stored.start
        return real(checkpoint, name)

    Checkpoint.read = counting  # type: ignore[method-assign,assignment]
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            run()
    finally:
        Checkpoint.read = real  # type: ignore[method-assign]
    after = resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - start, processor, read)


if __name__ == "__main__":
    main()
