"""Fuzz the parsers: `make fuzz MINUTES=10`, or `python tests/fuzz/run.py --minutes 10 [TARGET ...]`.

Each target gets an equal part of the time, in a process of its own: one that is ended by a crash of native code begins
again. "kernels" is the C++, for which libFuzzer chooses bytes where clang is installed. What is found is in
build/fuzz/TARGET; the exit code is 1 if there are faults. `--keep` makes the corpus of the repository anew: of what
reached new lines, the smallest inputs that reach them all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
KERNELS = "kernels"  # the C++, by libFuzzer, where clang is installed
BUILD = ROOT / "build" / "fuzz"
# Each thread's arena reserves 64 MB of addresses, of which a target has few: what runs out must be asked for.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
SLACK = 600  # seconds that a process may take beyond its part: to start, on a busy machine


def fuzz(name: str, seconds: int, modules: Sequence[str]) -> dict[str, object] | None:
    """Fuzz a target, and return what was found; None if it could not start."""
    folder, end = BUILD / name, time.monotonic() + seconds
    total: dict[str, object] = {"tried": 0, "accepted": 0, "faults": {}, "slowest": 0.0, "crashes": 0}
    left = seconds
    while left > 0:
        command = [sys.executable, str(Path(__file__).with_name("engine.py")), name, str(left), str(folder), *modules]
        folder.mkdir(parents=True, exist_ok=True)
        result = folder / "result.json"
        result.unlink(missing_ok=True)  # of a run that was ended
        with (folder / "log.txt").open("ab") as log:
            try:
                code = subprocess.run(
                    command, stdout=log, stderr=log, timeout=left + SLACK, env=os.environ | ENVIRONMENT
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
        if not result.exists():
            return None
        found = json.loads(result.read_text())
        result.unlink()
        for key in ("tried", "accepted"):
            total[key] += found[key]  # type: ignore[operator]
        total["faults"] |= found["faults"]  # type: ignore[operator]
        total["slowest"] = max(total["slowest"], found["slowest"])  # type: ignore[type-var]
        total["guided"] = found["guided"]
        if code == 0:
            break
        total["crashes"] += 1  # type: ignore[operator]
        left = round(end - time.monotonic())
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and print a line for each target."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", help="without any: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="in total")
    parser.add_argument("--keep", action="store_true", help="make the corpus of the repository anew")
    options = parser.parse_args(arguments)
    from faults import sanitize

    from fuzz.reach import keep_smallest
    from fuzz.targets import TARGETS

    names = options.targets or [*TARGETS, *([KERNELS] if sanitize.clang() else [])]
    if unknown := set(names) - {*TARGETS, KERNELS}:
        parser.error(f"{', '.join(sorted(unknown))}: not a target; choose among {', '.join(TARGETS)}, {KERNELS}")
    seconds = max(1, round(60 * options.minutes / len(names)))
    failed = False
    for name in names:
        if name == KERNELS:
            failed |= bool(sanitize.main(["fuzzer", "--seconds", str(seconds)]))
            continue
        found = fuzz(name, seconds, TARGETS[name].modules)
        if found is None:
            print(f"{name}: did not start; see build/fuzz/{name}/log.txt", flush=True)
            failed = True
            continue
        faults: dict[str, str] = found["faults"]  # type: ignore[assignment]
        how = "" if found.get("guided") else " at random (atheris is not installed)"
        print(f"{name}: {found['tried']:,} inputs in {seconds} s{how}, {found['accepted']:,} accepted, ", end="")
        print(
            f"{len(faults)} faults, {found['crashes']} crashes, the slowest took {found['slowest']:.2f} s", flush=True
        )
        for place, report in faults.items():
            print(f"  {place}: build/fuzz/{name}/faults/{report}")
        failed |= bool(faults or found["crashes"])
        if options.keep:
            keep_smallest(TARGETS[name], BUILD / name / "inputs")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
