"""A chat of ten turns behind a long system prompt: stock `llama_cpp.Llama` and `Qwen35`, turn by turn.

.venv/bin/python bench/chat.py [--model FILE] [--size 0.8b] [--quant Q4_K_M] [--system 8000] [--turns 10] [--threads 2]

Each side is a process of its own with the same file, context, batch and threads: `Llama` on a stock build of
llama-cpp-python, `Qwen35` on the one that is installed, without drafts. Both decode greedily, and each goes on with its
own answers; they take turns. Then a third process repeats every turn of ours with nothing to reuse.

Printed are the time to the first token, the tokens of the prompt that were evaluated, decoding speed, what a token
costs beside the calls of llama.cpp, peak memory, and whether the answers equal those of the cold runs.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime import convert, environment, worker_environment

N_CTX, N_BATCH = 16384, 512
# Greedy, but random weights shall not repeat one token for ever.
SAMPLING = {"temperature": 0.0, "repeat_penalty": 8.0}
QUESTIONS = ("What comes first?", "And after that?", "Why is that so?", "Name an example.", "Can it be shorter?")
CALLS = re.compile(r"llama_(decode|synchronize|get_logits_ith|sampler_\w+)")
Answer = dict[str, Any]


def main() -> None:
    """Let both sides chat, and print what each turn cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--system", type=int, default=8000, help="tokens of the system prompt")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(WORKERS[options.worker](options), options)
        return
    stock = environment("stock", "native")
    with tempfile.TemporaryDirectory() as scratch:
        options.model = options.model or convert(Path(scratch), options.size, options.quant)
        sides = {"stock": Side(stock, "stock", options), "ours": Side(Path(sys.executable), "ours", options)}
        print(f"{options.model.name}, {options.threads} threads, {options.turns} turns of {options.tokens} tokens")
        print(
            f"{'turn':>4}{'prompt':>8}{'evaluated':>16}{'first token, s':>18}{'ratio':>8}{'tokens/s':>16}{'ratio':>8}"
        )
        turns: dict[str, list[Answer]] = {name: [] for name in sides}
        for number in range(options.turns):
            for name in reversed(sides) if number % 2 else sides:
                turns[name].append(sides[name].ask(QUESTIONS[number % len(QUESTIONS)]))
            row(number + 1, turns["stock"][-1], turns["ours"][-1])
        memory = {name: side.close() for name, side in sides.items()}
        cold = Side(Path(sys.executable), "cold", options)
        repeated = [cold.ask(QUESTIONS[number % len(QUESTIONS)]) for number in range(options.turns)]
        cold.close()
    summary(turns["stock"], turns["ours"], repeated, memory)


def row(number: int, stock: Answer, ours: Answer) -> None:
    """Print one turn, stock before ours."""
    evaluated = f"{stock['evaluated']:,} {ours['evaluated']:,}"
    first = f"{stock['first']:.2f} {ours['first']:.3f}"
    speeds = f"{stock['speed']:.1f} {ours['speed']:.1f}"
    ratios = stock["first"] / ours["first"], ours["speed"] / stock["speed"]
    print(f"{number:>4}{ours['prompt']:>8,}{evaluated:>16}{first:>18}{ratios[0]:>8.1f}{speeds:>14}{ratios[1]:>7.2f}")
    sys.stdout.flush()


def summary(stock: list[Answer], ours: list[Answer], cold: list[Answer], memory: dict[str, float]) -> None:
    """Print what the turns have in common."""
    later = [a["first"] / b["first"] for a, b in zip(stock[1:], ours[1:], strict=True)]
    share = max(b["evaluated"] / b["prompt"] for b in ours[1:])
    speed = [statistics.median(turn["speed"] for turn in side) for side in (stock, ours)]
    equal = sum(a["text"] == b["text"] for a, b in zip(ours, cold, strict=True))
    beside = [1e3 * statistics.median(turn["beside"] for turn in side) for side in (stock, ours)]
    print(f"first token from turn 2 on: {min(later):.1f} to {max(later):.1f} times sooner")
    print(f"evaluated again from turn 2 on: at most {share:.1%} of the prompt")
    print(f"decoding: {speed[0]:.1f} and {speed[1]:.1f} tokens/s, ratio {speed[1] / speed[0]:.2f}")
    print(f"beside llama.cpp's calls: {beside[0]:.3f} and {beside[1]:.3f} ms a token")
    ratio = memory["ours"] / memory["stock"]
    print(f"peak memory: {memory['stock']:,.0f} and {memory['ours']:,.0f} MB, ratio {ratio:.2f}")
    print(f"answers equal to those of cold runs: {equal} of {len(ours)}")


class Side:
    """A process that answers questions."""

    def __init__(self, python: Path, worker: str, options: argparse.Namespace) -> None:
        """Start it; returns when the model is loaded."""
        command = [str(python), __file__, "--worker", worker, "--model", str(options.model)]
        for name in ("system", "turns", "tokens", "threads"):
            command += [f"--{name}", str(getattr(options, name))]
        pipe = subprocess.PIPE
        quiet = subprocess.DEVNULL
        environ = worker_environment("native")
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet, text=True, env=environ)
        self.read()

    def read(self) -> Any:
        """Wait for a line of JSON; llama.cpp may print others."""
        for line in self.process.stdout or ():
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit("a worker ended early; run it with --worker to see why")

    def ask(self, question: str) -> Answer:
        """Ask and get the figures."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer: Answer = self.read()
        return answer

    def close(self) -> float:
        """End it and return its peak memory in MB."""
        assert self.process.stdin
        self.process.stdin.close()
        memory = float(self.read()["memory"])
        self.process.wait()
        return memory


# ---- in a worker -------------------------------------------------------------------------------------------------


def serve(answer: Callable[[list[Answer]], Answer], options: argparse.Namespace) -> None:
    """Answer the questions on stdin, each with all that was said before."""
    messages: list[Answer] = [{"role": "system", "content": system_prompt(options.system)}]
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        messages.append({"role": "user", "content": json.loads(line)})
        found = answer(messages)
        messages.append({"role": "assistant", "content": found["text"]})
        print(json.dumps(found), flush=True)
    print(json.dumps({"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}), flush=True)


def system_prompt(tokens: int) -> str:
    """Write rules of about so many tokens."""
    rule = "Rule {}: when the guest asks for room {}, answer briefly, name the floor, and stay polite.\n"
    return "".join(rule.format(number, 100 + number) for number in range(tokens // 28))


def timed(lib: Any) -> list[float]:
    """Make the calls that compute add up their time in the list's only element."""
    total = [0.0]

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                total[0] += time.perf_counter() - start

        return measured

    for name in dir(lib):
        if CALLS.fullmatch(name):
            setattr(lib, name, wrap(getattr(lib, name)))
    return total


def measure(pieces: Any, spent: list[float]) -> tuple[str, float, float, float]:
    """Read a stream of texts; return it whole, seconds to the first, and of each later token: all, beside the calls."""
    start = time.perf_counter()
    texts, first, inside = [], 0.0, 0.0
    for text in pieces:
        if not texts:
            first, inside = time.perf_counter() - start, spent[0]
        texts.append(text)
    seconds = time.perf_counter() - start - first
    return "".join(texts), first, seconds, seconds - (spent[0] - inside)


def stock_worker(options: argparse.Namespace) -> Callable[[list[Answer]], Answer]:
    """Load the file with `llama_cpp.Llama`."""
    import llama_cpp

    spent = timed(llama_cpp.llama_cpp)
    sizes: dict[str, Any] = {"n_ctx": N_CTX, "n_batch": N_BATCH, "n_ubatch": N_BATCH}
    llama = llama_cpp.Llama(str(options.model), n_threads=options.threads, n_threads_batch=options.threads, **sizes)
    counts = {"evaluated": 0, "prompt": 0}
    evaluate, generate = llama.eval, llama.generate

    def counted(tokens: Any) -> None:
        counts["evaluated"] += len(tokens) if len(tokens) > 1 else 0
        evaluate(tokens)

    def noted(tokens: Any, *arguments: Any, **keywords: Any) -> Any:
        counts["prompt"] = len(tokens)
        return generate(tokens, *arguments, **keywords)

    llama.eval, llama.generate = counted, noted  # type: ignore[method-assign]

    def answer(messages: list[Answer]) -> Answer:
        counts["evaluated"] = 0
        chunks = llama.create_chat_completion(messages, stream=True, max_tokens=options.tokens, **SAMPLING)
        texts = (c["choices"][0]["delta"]["content"] for c in chunks if c["choices"][0]["delta"].get("content"))
        text, first, seconds, beside = measure(texts, spent)
        n = len(llama.tokenize(text.encode(), add_bos=False)) - 1
        n = options.tokens - 1 if n > options.tokens // 2 else max(1, n)
        return {"text": text, "first": first, "speed": n / seconds, "beside": beside / n} | counts

    return answer


def our_worker(options: argparse.Namespace, *, reuse: bool = True) -> Callable[[list[Answer]], Answer]:
    """Load the file with `Qwen35`; anew for each turn if nothing shall be reused."""
    from llama_cpp import llama_cpp as lib

    from qwen35_gguf.runtime import Qwen35

    spent = timed(lib)

    def load() -> Qwen35:
        return Qwen35(options.model, n_ctx=N_CTX, n_batch=N_BATCH, n_threads=options.threads, draft=0)

    model = load()

    def answer(messages: list[Answer]) -> Answer:
        nonlocal model
        if not reuse:
            model.close()
            model = load()
        last = None

        def texts() -> Any:
            nonlocal last
            for chunk in model.chat(messages, stream=True, max_tokens=options.tokens, **SAMPLING):
                delta = chunk.choices[0].delta
                if delta.content or delta.reasoning_content:
                    yield (delta.reasoning_content or "") + (delta.content or "")
                last = chunk

        text, first, seconds, beside = measure(texts(), spent)
        assert last is not None
        timings = last.timings
        assert timings is not None
        n = max(1, timings.tokens - 1)
        new = timings.prompt_tokens - timings.reused_tokens
        figures = {"prompt": timings.prompt_tokens, "evaluated": new, "speed": n / seconds, "beside": beside / n}
        return {"text": text, "first": first} | figures

    return answer


def cold_worker(options: argparse.Namespace) -> Callable[[list[Answer]], Answer]:
    """Load the file with `Qwen35` for each turn."""
    return our_worker(options, reuse=False)


WORKERS = {"stock": stock_worker, "ours": our_worker, "cold": cold_worker}


if __name__ == "__main__":
    main()
