"""Clients that chat behind one system prompt: llama-server of a stock build, and `qwen35 serve`.

.venv/bin/python bench/serving/serve.py [--model FILE] [--size 0.8b] [--clients 1,4,8] [--system 1600] [--turns 3]
    [--tokens 96] [--threads 2] [--slots 4] [--llama-server PROGRAM] [--long 8000]

Both servers get the same file, context per slot, slots and threads; llama-server with its defaults (continuous
batching, prompt cache, context checkpoints) and `--no-repack` as well, its better setting for prompts on AVX-512. For
each number of clients a server starts anew, and each client chats for some turns. Printed are tokens/s in total, the
seconds to the first piece (median and p95 of the first turn, median of the later ones), the p99 of the gaps between
pieces, and the prompt tokens that were evaluated. Then ours starts once more with the states that it kept, and last, a
stream runs while a prompt of --long tokens is evaluated: its longest gap.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from clients import Turn, ask, chats
from llama_server import llama_server

from qwen35_gguf.evaluation.texts.packaged import CALIBRATION, packaged_text
from runtime import convert

CHARACTERS_PER_TOKEN = 4.4
WIDTHS = (8, 10, 9, 8, 8, 9, 11)
STOCK, NO_REPACK, OURS = "llama-server", "llama-server, no repack", "ours"


def main() -> None:
    """Measure each server, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--llama-server", type=Path, help="use this program instead of building one")
    parser.add_argument("--sides", default=f"{STOCK};{NO_REPACK};{OURS}", help="separated by semicolons")
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--system", type=int, default=1600, help="tokens of the system prompt, about")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96, help="tokens of an answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=4, help="at least; as many as clients, if these are more")
    parser.add_argument("--long", type=int, default=8000, help="tokens of the prompt beside a stream; 0: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        options.model = options.model or convert(options.scratch, options.size, options.quant)
        print(f"{options.model.name}, {options.threads} threads, {options.slots} slots or more, ", end="")
        print(f"{options.turns} turns of {options.tokens} tokens behind {options.system}")
        print(
            f"{'':<26}{'clients':>8}{'tokens/s':>10}{'first':>9}{'p95':>8}{'later':>8}{'gap p99':>9}{'evaluated':>11}"
        )
        system = packaged_text(CALIBRATION, None)[: int(options.system * CHARACTERS_PER_TOKEN)]
        for name in options.sides.split(";"):
            for clients in map(int, options.clients.split(",")):
                with running(name, options, clients=clients) as port:
                    seconds, found = chats(port, system, clients, options.turns, options.tokens)
                row(name, clients, seconds, found)
        if OURS in options.sides:
            restart(system, options)
        if options.long:
            for name in options.sides.split(";"):
                print(f"{name:<26}longest gap beside a prompt of {options.long:,}: {beside(name, options):.3f} s")


def row(name: str, clients: int, seconds: float, found: Sequence[Sequence[Turn]]) -> None:
    """Print the figures of a run."""
    turns = [turn for one in found for turn in one]
    first = sorted(one[0].first for one in found)
    later = [turn.first for one in found for turn in one[1:]]
    gaps = sorted(gap for turn in turns for gap in turn.gaps)
    print(
        f"{name:<26}{clients:>8}{sum(turn.tokens for turn in turns) / seconds:>10.1f}{statistics.median(first):>9.2f}"
        f"{quantile(first, 0.95):>8.2f}{statistics.median(later) if later else 0:>8.2f}{quantile(gaps, 0.99):>9.3f}"
        f"{sum(turn.evaluated for turn in turns):>11,}",
        flush=True,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def restart(system: str, options: argparse.Namespace) -> None:
    """Print the first token of the same prompt cold, warm, and after a restart."""
    states = options.scratch / "states"
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "What follows from this?"}]
    firsts = []
    with running(OURS, options, "--state-dir", str(states)) as port:
        firsts += [ask(port, messages, 4).first, ask(port, messages, 4).first]
    with running(OURS, options, "--state-dir", str(states)) as port:
        firsts.append(ask(port, messages, 4).first)
    print(f"{OURS:<26}first token cold {firsts[0]:.2f} s, warm {firsts[1]:.2f} s, after a restart {firsts[2]:.2f} s")


def beside(name: str, options: argparse.Namespace) -> float:
    """Return the longest gap of a stream while a long prompt is evaluated."""
    prompt = packaged_text(CALIBRATION, None) * 20
    prompt = prompt[: int(options.long * CHARACTERS_PER_TOKEN)]
    turns: list[Turn] = []
    evaluated = threading.Event()
    with running(name, options) as port:
        stream = [{"role": "user", "content": "Tell me a long story."}]
        thread = threading.Thread(target=lambda: turns.append(ask(port, stream, 1500, evaluated)))
        thread.start()
        time.sleep(2)
        ask(port, [{"role": "user", "content": prompt}], 1)
        evaluated.set()
        thread.join()
    return max(turns[0].gaps)


@contextmanager
def running(name: str, options: argparse.Namespace, *more: str, clients: int = 1) -> Iterator[int]:
    """Run a server for some clients; the block gets its port."""
    slots = max(options.slots, clients)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    cells = options.system + options.long * 3 // 2 + options.turns * (options.tokens + 64) + 2048
    model, threads = str(options.model), str(options.threads)
    if name == OURS:
        command = [sys.executable, "-m", "qwen35_gguf.cli", "serve", model, "--port", str(port), "--quiet"]
        command += ["--ctx", str(cells), "--threads", threads, "--parallel", str(slots), *more]
    else:
        program = str(options.llama_server or llama_server())
        command = [
            program,
            "-m",
            model,
            "--port",
            str(port),
            "-c",
            str(cells * slots),
            "-np",
            str(slots),
        ]
        command += ["-t", threads, "--jinja", "--no-warmup", *(["--no-repack"] if name == NO_REPACK else [])]
    log = (options.scratch / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"QWEN35_API_KEY": ""})
    try:
        wait(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(120)


def wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server has loaded its model."""
    while True:
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.2)


if __name__ == "__main__":
    main()
