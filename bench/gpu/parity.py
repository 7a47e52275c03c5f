"""Parity with the CPU: logits and greedy text of splits, drafts of the MTP head, and the vision encoder.

Logits are compared by the mean KL divergence from the CPU's ("rounding": the CPU with kernels that round differently,
for scale). The small model is trained, so that its greedy text means something; the others have random weights, which
amplify rounding.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from divergence import divergence
from speculation import generate
from stage import ALL, Results, Setup, prefill, spec, whole

from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import MemoryRequest
from qwen35_gguf.runtime.engine import mtp
from qwen35_gguf.runtime.engine.draft_depth import MAX_DEPTH, Depth
from qwen35_gguf.runtime.engine.scheduler import Scheduler
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.devices import CPU, Offload
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.llama.mtmd import VisionContext
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.placement import place
from qwen35_gguf.runtime.planning.plan import Machine

TEXT, GREEDY, N_CTX = 256, 64, 2048
EVALUATION = Path(__file__).resolve().parents[2] / "examples" / "tiny-qwen3.5" / "evaluation.txt"


class Seen(NamedTuple):
    """What a split gives: (TEXT, vocabulary) logits, greedy tokens, prefill and decode in tokens/s."""

    logits: Any
    greedy: list[int]
    prefill: float
    decode: float


def splits(setup: Setup, results: Results) -> None:
    """Compare no, half and all layers on the device, and the placement of a plan, with the CPU."""
    for size in ("tiny", *setup.sizes):
        file, device = setup.model(size), setup.device()
        header = read_header(file)
        request, most = MemoryRequest(spec(N_CTX, setup.threads, n_outputs=TEXT)), offload.most_layers(header)
        plan, short = place(header, Machine(available_bytes(), (device,)), request)
        chosen = {"half": offload.choose(header, most // 2, [device], request, ram=0), "all": whole(device)}
        chosen |= {"plan": offload.of_plan(plan, [device])} if not short else {}
        expected = look(file, Offload(), setup.threads)
        if size == "tiny":
            report(results, size, "rounding", expected, rounding(file, setup.threads))
        report(results, size, "none", expected, expected)
        for label, placed in chosen.items():
            report(results, size, f"{label} ({placed.n_gpu_layers})", expected, look(file, placed, setup.threads))


def report(results: Results, size: str, label: str, expected: Seen, found: Seen) -> None:
    """Add a row."""
    kl = divergence(expected.logits, found.logits)
    same = np.flatnonzero(np.array(expected.greedy) != np.array(found.greedy))
    results.add(
        model=size,
        split=label,
        kl=float(kl.mean()),
        kl_max=float(kl.max()),
        same_top=float((expected.logits.argmax(-1) == found.logits.argmax(-1)).mean()),
        greedy=f"{int(same[0]) if len(same) else GREEDY}/{GREEDY}",
        prefill=found.prefill,
        decode=found.decode,
    )


def look(file: Path, placed: Offload, threads: int) -> Seen:
    """Load a split; take its logits, greedy tokens and speeds."""
    with (
        Model(file, ModelSpec(placed)) as model,
        Context(model, spec(N_CTX, threads, n_outputs=TEXT)) as context,
    ):
        tokens = model.tokenize(EVALUATION.read_text(encoding="utf-8")[:4000])[:TEXT]
        context.evaluate(tokens, 0, outputs=TEXT)
        logits = context.last_logits(TEXT).copy()
        greedy = [int(logits[-1].argmax())]
        begin = time.perf_counter()
        while len(greedy) < GREEDY:
            context.evaluate([greedy[-1]], TEXT + len(greedy) - 1, outputs=1)
            greedy.append(int(context.logits(-1).argmax()))
        decode = (GREEDY - 1) / (time.perf_counter() - begin)
        rates = []
        for _ in range(2):
            context.clear()
            rates.append(512 / prefill(context, 512))
        return Seen(logits, greedy, max(rates), decode)


def rounding(file: Path, threads: int) -> Seen:
    """Return what the CPU gives with other kernels, from a process of its own."""
    target = file.with_suffix(".npz")
    code = (
        "import sys, numpy, parity; from parity import *; "
        f"seen = look(Path({str(file)!r}), Offload(), {threads}); "
        f"numpy.savez({str(target)!r}, *seen)"
    )
    environment = os.environ | {"QWEN35_CPU": "portable", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    with np.load(target) as found:
        logits, greedy, prefilled, decoded = (found[f"arr_{i}"] for i in range(4))
    target.unlink()
    return Seen(logits, greedy.tolist(), float(prefilled), float(decoded))


# ---- drafts ------------------------------------------------------------------------------------------------------


def drafts(setup: Setup, results: Results) -> None:
    """Compare text with and without drafts, count those that are accepted, and time a step and a draft."""
    device = setup.device()
    output = (r"^(output|token_embd)\.weight", CPU)
    placements = {
        "cpu": Offload(),
        "all": whole(device),
        "output on the CPU": Offload((device,), ALL, (), (output,)),
    }
    for size in ("tiny", *setup.sizes):
        expected = None
        for label, placed in placements.items():
            if label == "cpu" and size != "tiny":
                continue
            with Model(setup.model(size), ModelSpec(placed, mtp=True)) as model:
                expected = draft_rows(setup, results, model, f"{size}, {label}", expected)


def draft_rows(setup: Setup, results: Results, model: Model, label: str, expected: list[int] | None) -> list[int]:
    """Add the rows of one placement; return the text without drafts."""
    count = 96
    with Scheduler(model, spec(N_CTX, setup.threads), draft=0) as off:
        generate(model, off, 0, 16)
        known, outcome = generate(model, off, 0, count)
    row = {"off": count / outcome.seconds}
    same = expected is None or known == expected
    with Scheduler(model, spec(N_CTX, setup.threads), draft=MAX_DEPTH) as engine:
        drafter = engine.forest.sequences[0].drafter
        assert drafter is not None
        mtp.measure_costs(engine.main, drafter, MAX_DEPTH)
        steps, draft = mtp.measure_costs(engine.main, drafter, MAX_DEPTH)
        depths: list[Depth] = [1, 2, 4]
        for depth in depths:
            generate(model, engine, depth, 16)
            tokens, outcome = generate(model, engine, depth, count)
            row[f"depth {depth}"] = count / outcome.seconds
            accepted = f"{outcome.drafts.accepted}/{outcome.drafts.drafted}"
            results.add(model=label, depth=depth, same_text=tokens == known, accepted=accepted)
    times = " ".join(f"{1e3 * seconds:.2f}" for seconds in steps)
    results.add(model=label, as_before=same, step_ms=times, draft_ms=1e3 * draft, tokens_per_s=row)
    return known


# ---- the vision encoder ------------------------------------------------------------------------------------------


def vision(setup: Setup, results: Results) -> None:
    """Compare the embeddings of images on the GPU with the CPU's, and time both."""
    random = np.random.default_rng(0)
    for size in ("tiny", *setup.sizes):
        sides = (224,) if size == "tiny" else (224, 1024)
        images = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in sides]
        with Model(setup.model(size), ModelSpec(whole(setup.device()))) as model:
            found: dict[bool, list[Any]] = {}
            seconds: dict[bool, list[float]] = {}
            for gpu in (True, False):
                with VisionContext(setup.mmproj(size), model, n_threads=setup.threads, use_gpu=gpu) as encoder:
                    found[gpu], seconds[gpu] = [], []
                    for image in images:
                        if gpu:
                            encoder.encode([image])
                        begin = time.perf_counter()
                        found[gpu].append(encoder.encode([image]))
                        seconds[gpu].append(time.perf_counter() - begin)
        for number, side in enumerate(sides):
            gpu, cpu = found[True][number], found[False][number]
            results.add(
                model=size,
                image=f"{side}x{side}",
                tokens=len(gpu),
                difference=float(np.linalg.norm(gpu - cpu) / np.linalg.norm(cpu)),
                gpu_s=seconds[True][number],
                cpu_s=seconds[False][number],
            )
