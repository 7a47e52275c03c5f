"""Prefill and decode behind many tokens: stock llama.cpp at three settings, and the patched one, interleaved.

.venv/bin/python bench/depth/depth.py [--size 0.8b] [--layers N] [--model FILE] [--depths 0,2048,8192] [--kv f16,q8_0]
    [--threads 2] [--rounds 3] [--cpu avx2] [--save FILE]

Sides: "default" is stock as it comes; "no repack" with `use_extra_bufts=False`; "no flash" also without flash attention
(f16 and f32 caches only); "patched" is ours. Each is a process that keeps its model; they take turns at every
measurement. The cache is filled with the cells of a short text, repeated (filled_cache.py): the time is that of a real
one. Rows: pp512, 512 tokens in one call (`--what pp128`: 128), and tg, one token at a time, in tokens/s; n, a call of n
tokens with all logits, in ms; prompt, the first token of a real prompt of 8,000 tokens, in seconds. Two ratios: to the
default, and to the best of the stock settings in that row.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filled_cache import Bytes, lengthened

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime import BUILDS, CMAKE_ARGS, child_environment, convert, decode, environment, rotated

KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2, "bf16": 30, "f32": 0}
TRANSPOSABLE = ("f16", "bf16", "f32")  # values that may be stored by column, which attention without "flash" needs
SEED_CELLS = 1024  # of the text that is repeated
AT_ONCE = (1, 2, 4, 8, 16, 32, 64)
AT_ONCE_DEPTHS = (0, 8192)
PROMPT = 8000
BATCH = 512
DECODED = 12
SPARE = 1024  # cells behind the depth


@dataclass(frozen=True)
class Side:
    """A build of llama.cpp at a setting."""

    build: str
    repack: bool = True
    flash: bool = True


SIDES = {
    "default": Side("stock"),
    "no repack": Side("stock", repack=False),
    "no flash": Side("stock", repack=False, flash=False),
    "patched": Side("patched"),
}


@dataclass(frozen=True)
class Question:
    """One measurement: of `what` (pp and a number up to 512, tg, prompt, or a number) behind `depth` tokens."""

    what: str
    depth: int
    kv: str

    @property
    def speed(self) -> bool:
        """Whether more is better."""
        return self.what.startswith(("pp", "tg"))


def main() -> None:
    """Ask all sides in turns; print a row for each question."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--depths", default="0,2048,8192,16384,32768,65536,131072")
    parser.add_argument("--kv", default="f16,q8_0")
    parser.add_argument("--what", default="pp512,tg,n,prompt", help="rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--cpu", default="native", choices=CMAKE_ARGS, help="what both builds are compiled for")
    parser.add_argument("--save", type=Path, help="write the figures as JSON")
    parser.add_argument("--child", metavar="SIDE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(options.model, SIDES[options.child], options.threads)
        return
    names = options.sides.split(",")
    pythons = {build: environment(build, options.cpu) for build in BUILDS}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        model = options.model or convert(Path(scratch), options.size, options.quant, options.layers)
        print(f"{model.name}, built for {options.cpu}, {options.threads} threads, median of {options.rounds}")
        print(f"{'':<24}" + "".join(f"{name:>11}" for name in names) + f"{'ratio':>8}{'to best':>9}")
        children = {
            name: stack.enter_context(child(pythons[SIDES[name].build], name, model, options)) for name in names
        }
        for question in questions(options.what.split(","), options.kv.split(","), options.depths.split(",")):
            row = measure_row(children, question, options.rounds)
            found.append({**asdict(question), **row})
            report(question, row)
    if options.save:
        options.save.write_text(json.dumps({"model": model.name, "rows": found}, indent=1) + "\n")


def questions(what: list[str], kv_types: list[str], depths: list[str]) -> list[Question]:
    """List what is measured: all of one depth and type together, since a cache is filled for them."""
    found = []
    for kv in kv_types:
        for depth in map(int, depths):
            found += [Question(name, depth, kv) for name in what if name.startswith(("pp", "tg"))]
            if "n" in what and depth in AT_ONCE_DEPTHS:
                found += [Question(str(n), depth, kv) for n in AT_ONCE]
        if "prompt" in what:
            found.append(Question("prompt", 0, kv))
    return found


def measure_row(children: dict[str, subprocess.Popen[str]], question: Question, rounds: int) -> dict[str, float | None]:
    """Ask every side in turns; return the medians, None where a side cannot do it."""
    values: dict[str, list[float]] = {name: [] for name in children}
    for number in range(1 if question.what == "prompt" else rounds):
        for name in rotated(children, number):
            if not SIDES[name].flash and question.kv not in TRANSPOSABLE:
                continue
            values[name].append(ask(children[name], question))
    return {name: statistics.median(several) if several else None for name, several in values.items()}


def report(question: Question, row: dict[str, float | None]) -> None:
    """Print a row."""
    unit = "tokens/s" if question.speed else "s" if question.what == "prompt" else "ms"
    name = question.what if question.speed else f"n = {question.what}"
    label = f"prompt of {PROMPT:,}" if question.what == "prompt" else f"{name} at {question.depth:,}"
    cells = "".join(f"{'-':>11}" if value is None else f"{value:>11.2f}" for value in row.values())
    ours = row.get("patched")
    stock = [value for name, value in row.items() if name != "patched" and value is not None]
    if ours is None or not stock:
        print(f"{question.kv:<6}{label:<18}{cells}  {unit}", flush=True)
        return
    ratios = [ours / value if question.speed else value / ours for value in (stock[0], *stock)]
    print(f"{question.kv:<6}{label:<18}{cells}{ratios[0]:>8.2f}{min(ratios):>9.2f}  {unit}", flush=True)


def child(python: Path, name: str, model: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a side."""
    command = [str(python), __file__, "--child", name, "--model", str(model), "--threads", str(options.threads)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=child_environment(options.cpu),
    )


def ask(process: subprocess.Popen[str], question: Question) -> float:
    """Let a side measure."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asdict(question)) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"a side ended at {question}")
    return float(answer)


# ---- a side ----------------------------------------------------------------------------------------------------------


@dataclass
class Filled:
    """A context whose cache can be filled again."""

    llama: Any
    pointer: Any
    state: Bytes | None

    def refill(self) -> None:
        """Have exactly `depth` tokens in the cache."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.pointer), True)
        if self.state is None:
            return
        data = self.state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if not self.llama.llama_state_seq_set_data(self.pointer, data, self.state.nbytes, 0):
            raise SystemExit("llama.cpp does not take the state")


def serve(model: Path, side: Side, threads: int) -> None:
    """Answer questions until there are no more."""
    import llama_cpp

    parameters = llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = side.repack
    loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), parameters)
    current: tuple[int, str] | None = None
    filled: Filled | None = None
    for line in sys.stdin:
        question = Question(**json.loads(line))
        if current != (question.depth, question.kv) or filled is None:
            if filled is not None:
                llama_cpp.llama_free(filled.pointer)
            filled = fill(llama_cpp, loaded, question, side, threads)
            current = question.depth, question.kv
        print(measure(filled, question), flush=True)


def fill(llama: Any, model: Any, question: Question, side: Side, threads: int) -> Filled:
    """Make a context of which `depth` cells are filled."""
    options = llama.llama_context_default_params()
    cells = max(question.depth, PROMPT if question.depth == 0 else 0)
    options.n_ctx, options.n_batch, options.n_ubatch = cells + SPARE, BATCH, BATCH
    options.n_threads = options.n_threads_batch = threads
    options.type_k = options.type_v = KV_TYPES[question.kv]
    options.flash_attn_type = -1 if side.flash else 0
    context = llama.llama_init_from_model(model, options)
    if not context:
        raise SystemExit("llama.cpp makes no context")
    if not question.depth:
        return Filled(llama, context, None)
    for start in range(0, SEED_CELLS, BATCH):
        decode(llama, context, BATCH, start)
    size = llama.llama_state_seq_get_size(context, 0)
    state = np.empty(size, np.uint8)
    llama.llama_state_seq_get_data(context, state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), size, 0)
    return Filled(llama, context, lengthened(state, question.depth))


def measure(filled: Filled, question: Question) -> float:
    """Measure once; tokens/s, ms or s."""
    llama, context, depth = filled.llama, filled.pointer, question.depth
    filled.refill()
    if question.what == "prompt":
        start = time.perf_counter()
        for at in range(0, PROMPT, BATCH):
            decode(llama, context, min(BATCH, PROMPT - at), at)
        llama.llama_synchronize(context)
        return time.perf_counter() - start
    if question.what.startswith("pp"):
        prompt = int(question.what[2:])
        start = time.perf_counter()
        decode(llama, context, prompt, depth)
        llama.llama_synchronize(context)
        return prompt / (time.perf_counter() - start)
    count = 1 if question.what == "tg" else int(question.what)
    seconds = []
    for number in range(DECODED if count <= 8 else 4):
        start = time.perf_counter()
        decode(llama, context, count, depth + number * count, every=True)
        llama.llama_synchronize(context)
        seconds.append(time.perf_counter() - start)
    best = statistics.median(seconds[1:])
    return 1 / best if question.what == "tg" else 1e3 * best


if __name__ == "__main__":
    main()
