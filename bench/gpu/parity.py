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
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from stage import ALL, MIB, Results, Setup, in_use, prefill, spec, whole

from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import MemoryRequest
from qwen35_gguf.runtime.engine.drafts.draft_depth import MAX_DEPTH, Depth
from qwen35_gguf.runtime.engine.drafts.measured_costs import measure_costs
from qwen35_gguf.runtime.engine.scheduler import Scheduler
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.devices import CPU, Offload
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.llama.mtmd import VisionContext
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.fitting import vision_bytes
from qwen35_gguf.runtime.planning.placement import place
from qwen35_gguf.runtime.planning.plan import Machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from divergence import divergence
from speculation import generate

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
        part = replace(device, free=min(device.free, file.stat().st_size * 6 // 10 + 512 * MIB))
        plan, short = place(header, Machine(available_bytes(), (part,)), request)
        chosen = {"half": offload.choose(header, most // 2, [device], request, ram=0), "all": whole(device)}
        chosen |= {"plan": offload.of_plan(plan, [device])} if not short else {}
        expected = look(file, Offload(), setup.threads)
        if size == "tiny":
            report(results, size, "rounding", expected, rounding(file, setup.threads))
        report(results, size, "none", expected, expected)
        for label, placed in chosen.items():
            report(results, size, f"{label} ({placed.n_gpu_layers})", expected, look(file, placed, setup.threads))


def in_common(expected: list[int], found: list[int]) -> str:
    """Count the tokens until the first that differs."""
    differs = np.flatnonzero(np.array(expected) != np.array(found))
    return f"{int(differs[0]) if len(differs) else len(expected)}/{len(expected)}"


def report(results: Results, size: str, label: str, expected: Seen, found: Seen) -> None:
    """Add a row."""
    kl = divergence(expected.logits, found.logits)
    results.add(
        model=size,
        split=label,
        kl=float(kl.mean()),
        kl_max=float(kl.max()),
        same_top=float((expected.logits.argmax(-1) == found.logits.argmax(-1)).mean()),
        greedy=in_common(expected.greedy, found.greedy),
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
    command = [sys.executable, __file__, str(file), str(target), str(threads)]
    subprocess.run(command, check=True, env=os.environ | {"QWEN35_CPU": "portable"})
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
                found = draft_rows(setup, results, model, f"{size}, {label}", expected)
                expected = expected or found


def draft_rows(setup: Setup, results: Results, model: Model, label: str, expected: list[int] | None) -> list[int]:
    """Add the rows of one placement; return the text without drafts."""
    count = 96
    with Scheduler(model, spec(N_CTX, setup.threads), draft=0) as off:
        generate(model, off, 0, 16)
        known, outcome = generate(model, off, 0, count)
    row = {"off": count / outcome.seconds}
    with Scheduler(model, spec(N_CTX, setup.threads), draft=MAX_DEPTH) as engine:
        drafter = engine.forest.sequences[0].drafter
        assert drafter is not None
        measure_costs(engine.main, drafter, MAX_DEPTH)
        steps, draft, _ = measure_costs(engine.main, drafter, MAX_DEPTH)
        depths: list[Depth] = [1, 2, 4]
        for depth in depths:
            generate(model, engine, depth, 16)
            tokens, outcome = generate(model, engine, depth, count)
            row[f"depth {depth}"] = count / outcome.seconds
            accepted = f"{outcome.drafts.accepted}/{outcome.drafts.drafted}"
            results.add(model=label, depth=depth, same_text=in_common(known, tokens), accepted=accepted)
    times = " ".join(f"{1e3 * seconds:.2f}" for seconds in steps)
    same = in_common(expected or known, known)
    results.add(model=label, as_the_first=same, step_ms=times, draft_ms=1e3 * draft, tokens_per_s=row)
    return known


# ---- the vision encoder ------------------------------------------------------------------------------------------


def vision(setup: Setup, results: Results) -> None:
    """Compare the embeddings of images on the GPU with the CPU's; time both; compare memory with the plan's."""
    random = np.random.default_rng(0)
    for size in ("tiny", *setup.sizes):
        mmproj = setup.mmproj(size)
        sides = (224,) if size == "tiny" else (224, 1024, 2048)
        images = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in sides]
        with Model(setup.model(size), ModelSpec(whole(setup.device()))) as model:
            before, used = in_use(), []
            with VisionContext(mmproj, model, n_threads=setup.threads, use_gpu=True) as encoder:
                found = []
                for image in images:
                    encoder.encode([image])
                    found.append(timed(encoder, image))
                    used.append(in_use() - before)
            with VisionContext(mmproj, model, n_threads=setup.threads) as encoder:
                expected = [timed(encoder, image) for image in images if image.shape[0] < 2048]
        for number, side in enumerate(sides):
            gpu, seconds = found[number]
            planned = vision_bytes(read_header(mmproj), side * side)
            row = {"tokens": len(gpu), "gpu_s": seconds, "planned_mib": planned // MIB, "smi_mib": used[number] // MIB}
            if number < len(expected):
                cpu, row["cpu_s"] = expected[number]
                errors = np.linalg.norm(gpu - cpu, axis=1) / np.linalg.norm(cpu, axis=1)
                row |= {"error": float(np.median(errors)), "largest_error": float(errors.max())}
            results.add(model=size, image=f"{side}x{side}", **row)


def timed(encoder: VisionContext, image: Any) -> tuple[Any, float]:
    """Encode an image; return its embeddings and the seconds."""
    begin = time.perf_counter()
    return encoder.encode([image]), time.perf_counter() - begin


if __name__ == "__main__":
    np.savez(sys.argv[2], *look(Path(sys.argv[1]), Offload(), int(sys.argv[3])))
