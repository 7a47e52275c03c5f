"""Which kernels take the GPU's time: shares of delta nets, attention and matmuls, in a prompt and in decode.

The profiler of PyTorch records all kernels of the process (CUPTI), those of llama.cpp too. Shares are of the time that
kernels run; "busy" is that time over the time that passed.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stage import Results, Setup, ids, prefill, spec, whole

from qwen35_gguf.runtime.llama.batch import Part
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model, ModelSpec

DEPTH, AT_ONCE = 16384, 8
GROUPS = (
    ("DeltaNet", r"gated_delta_net|delta_net|ssm_conv|solve_tri|cumsum|tri_kernel|diag"),
    ("attention", r"flash_attn|fattn|soft_max"),
    ("matmul", r"mul_mat|gemm|gemv|cublas|cutlass|stream_k|quantize|sgemm|splitK|nvjet|xmma|convert_unary|dequantize"),
    ("norm", r"norm"),
    ("rope", r"rope"),
    ("copy", r"cpy|copy|concat|get_rows|set_rows|Memcpy|Memset|k_repeat|cont"),
    ("elementwise", r"unary|bin_bcast|scale|glu|add|mul|sigmoid|silu"),
)


def profile(setup: Setup, results: Results) -> None:
    """Record prompts and single tokens of the main model."""
    size = setup.sizes[-1]
    with Model(setup.model(size), ModelSpec(whole(setup.device()))) as model:
        with Context(model, spec(DEPTH + 4096, setup.threads)) as context:
            prefill(context, 1024)
            context.clear()
            record(results, f"{size} pp512", lambda: prefill(context, 512))
            tokens(context, 512, 8)
            record(results, f"{size} tg", lambda: tokens(context, 520, 16))
            context.clear()
            prefill(context, DEPTH)
            record(results, f"{size} pp512 behind {DEPTH}", lambda: prefill(context, 512, DEPTH))
            tokens(context, DEPTH + 512, 8)
            record(results, f"{size} tg behind {DEPTH}", lambda: tokens(context, DEPTH + 520, 16))
        with Context(model, spec(4096, setup.threads, n_seq=AT_ONCE)) as context:
            together(context, 0, 8)
            record(results, f"{size} tg, {AT_ONCE} sequences", lambda: together(context, 8, 16))


def tokens(context: Context, pos: int, count: int) -> None:
    """Evaluate one token at a time."""
    for i in range(count):
        prefill(context, 1, pos + i)


def together(context: Context, pos: int, count: int) -> None:
    """Evaluate one token of each sequence at a time."""
    for i in range(count):
        context.evaluate_parts([Part(ids(1, seq), pos + i, seq, 1) for seq in range(AT_ONCE)])
        context.logits(-1)


def record(results: Results, label: str, work: Callable[[], Any]) -> None:
    """Run once under the profiler; add the shares, and the kernels that take most."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    trace = Path(f"/tmp/trace-{time.time_ns()}.json")
    with profiler(activities=[ProfilerActivity.CUDA]) as recorded:
        begin = time.perf_counter()
        work()
        passed = time.perf_counter() - begin
    recorded.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    trace.unlink()
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            spent[event["name"]] += event["dur"]
    total = sum(spent.values())
    shares: Counter[str] = Counter()
    for name, microseconds in spent.items():
        shares[group(name)] += microseconds
    found = {name: f"{100 * time_ / total:.1f}%" for name, time_ in shares.most_common()}
    top = {short(name): f"{100 * time_ / total:.1f}%" for name, time_ in spent.most_common(8)}
    results.add(what=label, ms=1e3 * passed, busy=total / 1e6 / passed, shares=found, kernels=top)


def group(name: str) -> str:
    """Return what a kernel belongs to."""
    return next((label for label, pattern in GROUPS if re.search(pattern, name)), "other")


def short(name: str) -> str:
    """Shorten a kernel's name: without return type and arguments."""
    plain = re.sub(r"\(.*", "", name.removeprefix("void "))
    return plain[:60].replace(" ", "")
