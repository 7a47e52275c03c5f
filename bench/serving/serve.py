"""Clients that chat behind one system prompt: llama-server of a stock build, and `qwen35 serve`.

.venv/bin/python bench/serving/serve.py [--model FILE] [--size 0.8b] [--parts chats,restart,beside,turns]
    [--sides "llama-server;ours"] [--clients 1,4,8] [--system 1600] [--turns 3] [--tokens 96] [--pause 0]
    [--threads 2] [--slots 4] [--llama-server PROGRAM] [--long 8000] [--chat-turns 10]

Both servers get the same file, context per slot, slots and threads; `servers.py` has the settings of llama-server.

chats: for each number of clients each server starts anew, one after the other, and each client chats for some turns,
with a pause of --pause seconds before each further one. Printed are tokens/s in total, the seconds to the first piece
(median and p95 of the first turn, median of the later ones), the p99 of the gaps between pieces, and the prompt tokens
that were not reused.
restart: the first token of a prompt in ours: cold, warm, and after a restart with the states that were kept.
beside: the longest gap of a stream while a prompt of --long tokens is evaluated.
turns: four chats of --chat-turns turns by turns, behind --long tokens that they share: prompt tokens evaluated in each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from clients import Turn, ask, by_turns, chats
from servers import OURS, SIDES, Serving, running

from qwen35_gguf.evaluation.texts.packaged import CALIBRATION, packaged_text
from runtime import convert

CHARACTERS_PER_TOKEN = 4.4
CHATS, SHORT = 4, 8
PARTS = ("chats", "restart", "beside", "turns")


def main() -> None:
    """Measure each server, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--llama-server", type=Path, help="use this program instead of building one")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--sides", default=";".join(SIDES), help="separated by semicolons")
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--system", type=int, default=1600, help="tokens of the system prompt, about")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96, help="tokens of an answer")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before a later turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=4, help="at least; as many as clients, if these are more")
    parser.add_argument("--long", type=int, default=8000, help="tokens of the prompt of beside and turns")
    parser.add_argument("--chat-turns", type=int, default=10, help="of each chat of turns")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        model = options.model or convert(options.scratch, options.size, options.quant)
        cells = options.system + options.turns * (options.tokens + 64) + 512
        serving = Serving(model, options.threads, options.slots, cells, options.scratch / "log", options.llama_server)
        print(f"{model.name}, {options.threads} threads, {options.slots} slots or more")
        parts = {"chats": measure_chats, "restart": restart, "beside": beside, "turns": turns}
        for part in options.parts.split(","):
            parts[part](options, serving)


def text_of(tokens: int) -> str:
    """Return a text of about some tokens."""
    text = packaged_text(CALIBRATION, None)
    length = int(tokens * CHARACTERS_PER_TOKEN)
    return (text * (1 + length // len(text)))[:length]


# ---- parts -----------------------------------------------------------------------------------------------------------


def measure_chats(options: argparse.Namespace, serving: Serving) -> None:
    """Print a row for each number of clients and each server."""
    print(f"{options.turns} turns of {options.tokens} tokens behind {options.system}, {options.pause:g} s between")
    print(f"{'':<26}{'clients':>8}{'tokens/s':>10}{'first':>9}{'p95':>8}{'later':>8}{'gap p99':>9}{'evaluated':>11}")
    for clients in map(int, options.clients.split(",")):
        for side in options.sides.split(";"):
            with running(side, serving, slots=clients) as port:
                size = options.turns, options.tokens
                seconds, found = chats(port, text_of(options.system), clients, *size, pause=options.pause)
            row(side, clients, seconds, found)


def row(side: str, clients: int, seconds: float, found: Sequence[Sequence[Turn]]) -> None:
    """Print the figures of a run."""
    all_turns = [turn for one in found for turn in one]
    first = sorted(one[0].first for one in found)
    later = [turn.first for one in found for turn in one[1:]]
    gaps = sorted(gap for turn in all_turns for gap in turn.gaps)
    print(
        f"{side:<26}{clients:>8}{sum(turn.tokens for turn in all_turns) / seconds:>10.1f}"
        f"{statistics.median(first):>9.2f}{quantile(first, 0.95):>8.2f}"
        f"{statistics.median(later) if later else 0:>8.2f}{quantile(gaps, 0.99):>9.3f}"
        f"{sum(turn.evaluated for turn in all_turns):>11,}",
        flush=True,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def restart(options: argparse.Namespace, serving: Serving) -> None:
    """Print the first token of the same prompt cold, warm, and after a restart."""
    states = ("--state-dir", str(options.scratch / "states"))
    system = {"role": "system", "content": text_of(options.system)}
    messages = [system, {"role": "user", "content": "What follows from this?"}]
    with running(OURS, serving, *states) as port:
        cold, warm = ask(port, messages, 4).first, ask(port, messages, 4).first
    with running(OURS, serving, *states) as port:
        after, again = ask(port, messages, 4).first, ask(port, messages, 4).first
    print(f"{OURS:<26}first token cold {cold:.2f} s, warm {warm:.3f} s, ", end="")
    print(f"after a restart {after:.3f} s, and once more {again:.3f} s", flush=True)


def beside(options: argparse.Namespace, serving: Serving) -> None:
    """Print the gaps of a stream while a long prompt is evaluated."""
    serving = with_room(options, serving)
    for side in options.sides.split(";"):
        with running(side, serving) as port:
            gaps, seconds = gaps_beside(port, text_of(options.long))
        print(
            f"{side:<26}beside a prompt of {options.long:,} ({seconds:.0f} s): gaps {statistics.median(gaps):.3f} s in "
            f"the median, p99 {quantile(sorted(gaps), 0.99):.3f}, longest {max(gaps):.3f}",
            flush=True,
        )


def gaps_beside(port: int, prompt: str) -> tuple[list[float], float]:
    """Return the gaps of a stream while a prompt is evaluated, and the seconds that it took."""
    found: list[Turn] = []
    evaluated = threading.Event()
    stream = [{"role": "user", "content": "Tell me a long story."}]
    thread = threading.Thread(target=lambda: found.append(ask(port, stream, 1500, evaluated)))
    thread.start()
    time.sleep(2)
    start = time.perf_counter()
    ask(port, [{"role": "user", "content": prompt}], 1)
    end = time.perf_counter()
    evaluated.set()
    thread.join()
    return [gap for gap, at in zip(found[0].gaps, found[0].times, strict=True) if start < at <= end], end - start


def turns(options: argparse.Namespace, serving: Serving) -> None:
    """Print the tokens that are evaluated in each turn of chats that take turns."""
    serving = with_room(options, serving)
    print(f"{CHATS} chats by turns behind {options.long:,}; tokens evaluated in turns 1 to {options.chat_turns}:")
    for side in options.sides.split(";"):
        with running(side, serving) as port:
            found = by_turns(port, text_of(options.long), CHATS, options.chat_turns, SHORT)
        evaluated = ", ".join(f"{sum(turn.evaluated for turn in one):,}" for one in found)
        first = statistics.median(turn.first for one in found[1:] for turn in one)
        print(f"{side:<26}{evaluated}; first token of later turns {first:.2f} s", flush=True)


def with_room(options: argparse.Namespace, serving: Serving) -> Serving:
    """Return a server's settings with room for long prompts."""
    return Serving(**{**vars(serving), "cells": options.long * 5 // 4 + 2560})


if __name__ == "__main__":
    main()
