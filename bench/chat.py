"""A chat of ten turns behind a long system prompt: stock `llama_cpp.Llama` and `Qwen35`, turn by turn.

.venv/bin/python bench/chat.py [--model FILE] [--size 0.8b] [--quant Q4_K_M] [--system 8000] [--turns 10] [--threads 2]

Each side is a process of its own with the same file, context, batch and threads: `Llama` on a stock build of
llama-cpp-python, once with its default settings and once with `use_extra_bufts=False` ("no repack", faster in prefill
on AVX-512), and `Qwen35` on the build that is installed, without drafts. All decode greedily, continue with their own
answers and take turns. Then another process repeats every turn of ours with nothing to reuse.

Printed are the time to the first token, the prompt tokens that were evaluated, decode speed, the time per token
outside of llama.cpp's calls, peak memory, and whether the answers equal those of the cold runs. Columns of three values
are stock by default, stock without repacking, ours; ratios are against the better of the two stock values.
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
from functools import partial
from pathlib import Path
from typing import Any

from runtime import STOCK, child_environment, convert, environment, rotated

N_CTX, N_BATCH = 16384, 512
# Greedy, but random weights must not repeat one token forever.
SAMPLING = {"temperature": 0.0, "repeat_penalty": 8.0}
QUESTIONS = ("What comes first?", "And after that?", "Why is that so?", "Name an example.", "Can it be shorter?")
CALLS = re.compile(r"llama_(decode|synchronize|get_logits_ith|sampler_\w+)")
Answer = dict[str, Any]


def main() -> None:
    """Let all sides chat, and print what each turn cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--system", type=int, default=8000, help="tokens of the system prompt")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of an answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(CHILDREN[options.child](options), options)
        return
    stock = environment("stock", "native")
    with tempfile.TemporaryDirectory() as scratch:
        options.model = options.model or convert(Path(scratch), options.size, options.quant)
        sides = {name: Side(stock, name, options) for name in STOCK} | {
            "ours": Side(Path(sys.executable), "ours", options)
        }
        print(f"{options.model.name}, {options.threads} threads, {options.turns} turns of {options.tokens} tokens")
        heads = (
            f"{'turn':>4}{'prompt':>8}{'evaluated':>22}{'first token, s':>20}{'ratio':>8}{'tokens/s':>24}{'ratio':>8}"
        )
        print(heads + "   (stock by default, stock without repacking, ours)")
        turns: dict[str, list[Answer]] = {name: [] for name in sides}
        for number in range(options.turns):
            for name in rotated(sides, number):
                turns[name].append(sides[name].ask(QUESTIONS[number % len(QUESTIONS)]))
            row(number + 1, [answers[-1] for answers in turns.values()])
        memory = [side.close() for side in sides.values()]
        cold = Side(Path(sys.executable), "cold", options)
        repeated = [cold.ask(QUESTIONS[number % len(QUESTIONS)]) for number in range(options.turns)]
        cold.close()
    summary(list(turns.values()), repeated, memory)


def row(number: int, answers: list[Answer]) -> None:
    """Print one turn; `answers` has ours last."""
    *stock, ours = answers
    evaluated = " ".join(f"{answer['evaluated']:,}" for answer in answers)
    first = " ".join(f"{answer['first']:.2f}" for answer in answers)
    speeds = " ".join(f"{answer['speed']:.1f}" for answer in answers)
    sooner = min(answer["first"] for answer in stock) / ours["first"]
    faster = ours["speed"] / max(answer["speed"] for answer in stock)
    print(f"{number:>4}{ours['prompt']:>8,}{evaluated:>22}{first:>20}{sooner:>8.1f}{speeds:>24}{faster:>8.2f}")
    sys.stdout.flush()


def summary(turns: list[list[Answer]], cold: list[Answer], memory: list[float]) -> None:
    """Print what the turns have in common; `turns` and `memory` have ours last."""
    *stock, ours = turns
    later = [
        min(answer["first"] for answer in others) / own["first"]
        for own, *others in zip(ours[1:], *(side[1:] for side in stock), strict=True)
    ]
    share = max(answer["evaluated"] / answer["prompt"] for answer in ours[1:])
    speeds = [statistics.median(turn["speed"] for turn in side) for side in turns]
    equal = sum(a["text"] == b["text"] for a, b in zip(ours, cold, strict=True))
    outside = [1e3 * statistics.median(turn["outside"] for turn in side) for side in turns]
    print(
        f"first token from turn 2 on: {min(later):.1f} to {max(later):.1f} times sooner than the better stock setting"
    )
    print(f"evaluated again from turn 2 on: at most {share:.1%} of the prompt")
    print(f"decode: {listed(speeds, '.1f')} tokens/s, ratio {speeds[-1] / max(speeds[:-1]):.2f}")
    print(f"outside of llama.cpp's calls: {listed(outside, '.3f')} ms per token")
    print(f"peak memory: {listed(memory, ',.0f')} MB, ratio {memory[-1] / min(memory[:-1]):.2f}")
    print(f"answers equal to those of cold runs: {equal} of {len(ours)}")


def listed(values: list[float], form: str) -> str:
    """Join figures for a line of the summary."""
    return ", ".join(format(value, form) for value in values)


class Side:
    """A process that answers questions."""

    def __init__(self, python: Path, child: str, options: argparse.Namespace) -> None:
        """Start it; returns when the model is loaded."""
        command = [str(python), __file__, "--child", child, "--model", str(options.model)]
        for name in ("system", "turns", "tokens", "threads"):
            command += [f"--{name}", str(getattr(options, name))]
        pipe = subprocess.PIPE
        quiet = subprocess.DEVNULL
        environ = child_environment("native")
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet, text=True, env=environ)
        self.read()

    def read(self) -> Any:
        """Wait for a line of JSON; llama.cpp may print others."""
        for line in self.process.stdout or ():
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit("a process ended early; run it with --child to see why")

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


# ---- in a child process ------------------------------------------------------------------------------------------


def serve(answer: Callable[[list[Answer]], Answer], options: argparse.Namespace) -> None:
    """Answer the questions on stdin, each with the whole conversation before it."""
    messages: list[Answer] = [{"role": "system", "content": system_prompt(options.system)}]
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        messages.append({"role": "user", "content": json.loads(line)})
        found = answer(messages)
        messages.append({"role": "assistant", "content": found["text"]})
        print(json.dumps(found), flush=True)
    print(json.dumps({"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}), flush=True)


def system_prompt(tokens: int) -> str:
    """Write rules of about `tokens` tokens."""
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
    """Read a stream of texts; return the text, seconds to the first piece, then all and those outside of the calls."""
    start = time.perf_counter()
    texts, first, inside = [], 0.0, 0.0
    for text in pieces:
        if not texts:
            first, inside = time.perf_counter() - start, spent[0]
        texts.append(text)
    seconds = time.perf_counter() - start - first
    return "".join(texts), first, seconds, seconds - (spent[0] - inside)


def stock_child(options: argparse.Namespace, *, repack: bool = True) -> Callable[[list[Answer]], Answer]:
    """Load the file with `llama_cpp.Llama`, whose constructor has no argument for `use_extra_bufts`."""
    import llama_cpp

    lib = llama_cpp.llama_cpp
    spent = timed(lib)
    usual = lib.llama_model_default_params

    def parameters() -> Any:
        made = usual()
        made.use_extra_bufts = repack
        return made

    lib.llama_model_default_params = parameters
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
        text, first, seconds, outside = measure(texts, spent)
        n = len(llama.tokenize(text.encode(), add_bos=False)) - 1
        n = options.tokens - 1 if n > options.tokens // 2 else max(1, n)
        return {"text": text, "first": first, "speed": n / seconds, "outside": outside / n} | counts

    return answer


def our_child(options: argparse.Namespace, *, reuse: bool = True) -> Callable[[list[Answer]], Answer]:
    """Load the file with `Qwen35`; for each turn anew if `reuse` is false."""
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

        text, first, seconds, outside = measure(texts(), spent)
        assert last is not None
        timings = last.timings
        assert timings is not None
        n = max(1, timings.tokens - 1)
        new = timings.prompt_tokens - timings.reused_tokens
        figures = {"prompt": timings.prompt_tokens, "evaluated": new, "speed": n / seconds, "outside": outside / n}
        return {"text": text, "first": first} | figures

    return answer


CHILDREN: dict[str, Callable[[argparse.Namespace], Callable[[list[Answer]], Answer]]] = {
    name: partial(stock_child, repack=side.repack) for name, side in STOCK.items()
} | {"ours": our_child, "cold": partial(our_child, reuse=False)}


if __name__ == "__main__":
    main()
