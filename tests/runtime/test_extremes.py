"""No argument of the public API ends the process: each is used, raised to what works, or refused by a typed error.

Each case runs in a process of its own, which would end with a signal at an assertion of ggml.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, math, sys
import numpy as np
from qwen35_gguf.errors import Qwen35Error
from qwen35_gguf.runtime import Qwen35
path, cases = sys.argv[1], json.loads(sys.argv[2])
rgb = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
CHAT = [{"role": "user", "content": "Hello there, how are you?"}]
SEEN = [{"role": "user", "content": [{"type": "image", "image": rgb}, {"type": "text", "text": "What?"}]}]
for options, requests in cases:
    try:
        with Qwen35(path, **{"n_threads": 1, "n_ctx": 1024, **options}) as model:
            for request in requests or [{}]:
                for call in (
                    lambda: model.chat(CHAT, **{"max_tokens": 9, "thinking": False, **request}),
                    lambda: [*model.chat(CHAT, stream=True, **{"max_tokens": 3, **request})],
                    lambda: model.chat(SEEN, **{"max_tokens": 2, "thinking": False, **request}),
                    lambda: model.generate("a", **{"max_tokens": 3, **request}),
                    lambda: model.generate_many(["a", "b c", CHAT], **{"max_tokens": 3, **request}),
                    lambda: model.generate(""),
                    lambda: model.chat([]),
                    lambda: model.chat([{"role": "user", "content": ""}], max_tokens=1),
                ):
                    try:
                        call()
                    except Qwen35Error as error:
                        assert len(str(error).splitlines()) == 1, error
            model.cache_info()
    except Qwen35Error as error:
        assert len(str(error).splitlines()) == 1, error
print("ok")
"""

HUGE = [1 << 30, 1 << 31, 1 << 40, 10**30]
SMALL = [-1, 0, 1, 2, 3]
ODD: list[Any] = [float("nan"), float("inf"), -float("inf"), 1e-310, 1e308, -0.0, "x", None, True]
LOADING: dict[str, list[Any]] = {
    "n_ctx": [*SMALL, 5, 31, 255, 257, "1M", *HUGE, *ODD],
    "n_batch": [*SMALL, 4, 5, 6, 7, 4096, 1 << 16, *HUGE, *ODD],
    "n_threads": [*SMALL, 33, 512, 1000, *HUGE, *ODD],
    "n_gpu_layers": [-2, *SMALL, 1000, *HUGE, *ODD],
    "draft": [*SMALL, 4, 5, "auto", *HUGE, *ODD],
    "cache_bytes": [*SMALL, 1000, 100_000, "2GB", *HUGE, *ODD],
    "kv_type": ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", *ODD],
}
GENERATING: dict[str, list[Any]] = {
    "max_tokens": [*SMALL, 5000, *HUGE, *ODD],
    "thinking_budget": [*SMALL, *HUGE],
    "seed": [*SMALL, (1 << 32) - 1, (1 << 64) - 1, *HUGE, *ODD],
    "n": [*SMALL, *HUGE],
    "draft": [*SMALL, 4, 5, "auto", *ODD],
    "temperature": [*SMALL, 100, *ODD],
    "top_p": [*SMALL, 0.5, *ODD],
    "top_k": [*SMALL, 5000, *HUGE, *ODD],
    "min_p": [*SMALL, 0.5, *ODD],
    "presence_penalty": [*SMALL, -2, *ODD],
    "frequency_penalty": [*SMALL, -2, *ODD],
    "repeat_penalty": [*SMALL, 0.01, 100, *ODD],
    "stop": ["a", "", ["a", "e", "i", "o", "u", " "], *ODD],
    "grammar": ['root ::= ""', 'root ::= "a"', "root ::= root", "root ::= [", "", "\0", *ODD],
    "timeout": [*SMALL, 1e-9, 1e7, *HUGE, *ODD],
}


def run(path: Path, cases: list[Any]) -> None:
    command = [sys.executable, "-c", SCRIPT, str(path), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr[-3000:]


@pytest.mark.parametrize("name", LOADING)
@pytest.mark.slow
def test_no_option_of_loading_ends_the_process(files: list[Path], name: str) -> None:
    cases = [[{"draft": depth, name: value}, []] for value in LOADING[name] for depth in (0, 4)]
    run(files[0], cases if name != "draft" else cases[::2])


@pytest.mark.slow
def test_no_pair_of_small_sizes_ends_the_process(files: list[Path]) -> None:
    sizes = [(n_ctx, n_batch, depth) for n_ctx in (1, 3, 31, 64) for n_batch in (1, 2, 5, 64) for depth in (0, 1, 4)]
    run(files[0], [[{"n_ctx": a, "n_batch": b, "draft": c, "cache_bytes": 1000}, []] for a, b, c in sizes])


@pytest.mark.slow
@pytest.mark.parametrize("draft", [0, 3])
def test_no_option_of_a_request_ends_the_process(files: list[Path], draft: int) -> None:
    requests = [{name: value} for name, values in GENERATING.items() for value in values]
    run(files[0], [[{"draft": draft, "n_ctx": 256}, requests]])


def test_a_batch_too_small_for_drafts_is_raised(files: list[Path]) -> None:
    run(files[0], [[{"n_batch": n_batch, "draft": 4}, []] for n_batch in (1, 2, 5, 6)])
