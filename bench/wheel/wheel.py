"""The wheel of the engine against the build for this machine: prefill, decode, small batches, in turns, with ratios.

.venv/bin/python bench/wheel/wheel.py [--dist dist] [--size 0.8b] [--quant Q4_K_M] [--rounds 3] [--model FILE]

The native build is the patched one of bench/runtime.py; the wheel is that of `make wheels`, in its own environment.
A ratio above 1 means that the wheel is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime import LESS_IS_BETTER, ROOT, convert, digits, environment, measure

FOLDER = ROOT / ".cache" / "bench-runtime" / "wheel"


def main() -> None:
    """Measure both in turns; print a row for each test and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where the wheel is")
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2", help="numbers, separated by commas")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--site", action="append", metavar="NAME=FOLDER", help="packages of native or wheel instead")
    parser.add_argument("--child", nargs=3, metavar=("PACKAGE", "MODEL", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        package, path, threads = options.child
        sys.modules["llama_cpp"] = __import__(package)  # what `measure` imports
        print(json.dumps(measure(path, int(threads), repack=True)))
        return
    sites = dict(text.split("=", 1) for text in options.site or ())
    sides = {
        "native": ("llama_cpp", sys.executable if "native" in sites else str(environment("patched", "native"))),
        "wheel": ("qwen35_engine", sys.executable if "wheel" in sites else wheel_environment(options.dist)),
    }
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or convert(Path(scratch), options.size, options.quant, options.layers)
        print(f"{model.name}, median of {options.rounds}")
        print(f"{'':<20}{'threads':>8}{'native':>11}{'wheel':>11}{'ratio':>8}")
        for threads in options.threads.split(","):
            found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
            for number in range(options.rounds):
                for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
                    found[name].append(child(*sides[name], model, threads, sites.get(name, "")))
            for test in found["wheel"][0]:
                native, wheel = (statistics.median(run[test] for run in found[name]) for name in ("native", "wheel"))
                less = any(name in test for name in LESS_IS_BETTER)
                ratio = native / wheel if less else wheel / native
                places = digits(native)
                print(f"{test:<20}{threads:>8}{native:>11.{places}f}{wheel:>11.{places}f}{ratio:>8.3f}", flush=True)


def child(package: str, python: str, model: Path, threads: str, site: str) -> dict[str, Any]:
    """Measure one of them in a process of its own."""
    command = [python, __file__, "--child", package, str(model), threads]
    env = os.environ | ({"PYTHONPATH": site} if site else {})
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def wheel_environment(dist: Path) -> str:
    """Return the Python of an environment with the wheel, made again."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
    python = str(FOLDER / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--find-links", str(dist), "--only-binary=:all:"]
    subprocess.run([*install, "qwen35-engine"], check=True)
    return python


if __name__ == "__main__":
    main()
