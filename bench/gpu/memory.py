"""The plan's bytes against those that llama.cpp allocates and nvidia-smi sees, part by part, also with less memory.

Each case is a process of its own, which loads what a plan says and fills its context. `limit` is what the plan may use
of the device; "held" is memory that another process takes away, so that less is free. The reserve of a plan must cover
the driver's context and what is allocated while computing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stage import MIB, Results, Setup, ids, in_use, prefill, spec

from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.context_spec import ContextSpec, MemoryRequest
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.engine.drafts.draft_depth import MAX_DEPTH
from qwen35_gguf.runtime.engine.drafts.mtp import Drafter, draft, head_context
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.devices import Device
from qwen35_gguf.runtime.llama.library import recorded_log
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.placement import plan_placement
from qwen35_gguf.runtime.planning.plan import Machine, Plan

BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute) buffer size\s*=\s*([\d.]+) MiB")
PARTS = {"model": ("weights",), "KV": ("KV cache",), "RS": ("recurrent states",), "compute": ("compute", "MTP compute")}
BALLOON = """
import ctypes, sys
cuda, pointer = ctypes.CDLL("libcudart.so.13"), ctypes.c_void_p()
print(cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(int(sys.argv[1]))), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Case:
    """What is planned and loaded.

    Attributes:
        file: the text model.
        n_ctx: cells.
        n_batch: tokens of a call.
        kv_type: of the KV cache.
        mtp: with the MTP head.
        limit: bytes of the device that the plan may use; 0: what is free.
        held: whether another process takes the rest, and the model is loaded as a user loads it.

    """

    file: str
    n_ctx: int = 16384
    n_batch: int = 512
    kv_type: str = "f16"
    mtp: bool = True
    limit: int = 0
    held: bool = False


def memory(setup: Setup, results: Results) -> None:
    """Measure the cases, the largest model with its limits first."""
    main, small = (str(setup.model(size)) for size in (setup.sizes[-1], setup.sizes[0]))
    total = setup.model(setup.sizes[-1]).stat().st_size
    cases = [
        Case(main),
        Case(main, limit=total // 2),
        Case(main, limit=total // 4),
        Case(main, limit=total * 3 // 4, kv_type="q8_0"),
        Case(main, limit=total // 2, held=True),
        Case(small),
        Case(small, n_ctx=131072, n_batch=2048),
        Case(main, n_ctx=65536, mtp=False),
        Case(small, limit=total // 8, n_batch=16),
    ]
    if experts := sorted(setup.files.glob("Qwen3.5-35B-A3B-*.gguf")):
        cases[2:2] = [Case(str(experts[0]), limit=size << 30, n_batch=batch) for size, batch in ((3, 512), (6, 2048))]
    for case in cases:
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
        for option, values in (("--device", setup.devices), ("--rpc", setup.rpc)):
            command += [word for value in values for word in (option, value)]
        begin = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.returncode}
        label = f"{Path(case.file).name[8:-5]} {case.n_ctx} cells, batch {case.n_batch}, {case.kv_type}"
        label += f", limit {case.limit // MIB}" * bool(case.limit) + ", held" * case.held + ", no MTP" * (not case.mtp)
        results.add(case=label, **found, seconds=time.perf_counter() - begin)


def measure(case: Case, setup: Setup) -> dict[str, Any]:
    """Plan, load, compute; return MiB: planned and allocated of each part, and what nvidia-smi sees of the steps."""
    before = in_use()
    devices = setup.find()
    driver = in_use() - before
    if case.limit:
        devices = [replace(devices[0], free=case.limit)]
    header, wanted = read_header(Path(case.file)), context_of(case, setup.threads)
    request = MemoryRequest(wanted, mtp=case.mtp)
    with ExitStack() as stack:
        ask = stack.enter_context(offload.measuring(header, request, devices))
        begin = time.perf_counter()
        plan = plan_placement(header, Machine(available_bytes(), tuple(devices)), request, ask)
        seconds = time.perf_counter() - begin
        formula = plan_placement(header, Machine(available_bytes(), tuple(devices)), request)
    start = in_use()
    with ExitStack() as stack:
        lines = stack.enter_context(recorded_log())
        model = stack.enter_context(Model(Path(case.file), ModelSpec(offload.of_plan(plan, devices), mtp=case.mtp)))
        loaded = in_use()
        main = stack.enter_context(Context(model, wanted, hidden=case.mtp))
        head = stack.enter_context(head_context(model, main)) if case.mtp else None
        made = in_use()
        compute(main, Drafter(head, model.n_embd) if head else None)
        computed = in_use()
    seen = {"driver": driver, "weights": loaded - start, "contexts": made - loaded, "computing": computed - made}
    found = compare(plan, devices[0], lines)
    found["layers"], found["overrides"] = plan.n_gpu_layers, len(plan.overrides)
    parts = next(usage.parts for usage in formula.usage if usage.device == devices[0].name)
    found["formula"] = sum(parts.get(name, 0) for name in PARTS["compute"]) / MIB
    found["planning_s"] = seconds
    found["smi"] = {name: size // MIB for name, size in seen.items()} | {"all": (computed - before) // MIB}
    return found


def context_of(case: Case, threads: int) -> ContextSpec:
    """Describe the main context of a case."""
    depth = MAX_DEPTH if case.mtp else 0
    fields = {"n_batch": case.n_batch, "kv_type": case.kv_type, "n_rs_seq": depth, "n_outputs": 1 + depth}
    return spec(case.n_ctx, threads, **fields)


def compute(main: Context, drafter: Drafter | None) -> None:
    """Evaluate two full calls and some short ones, with drafts: everything is allocated afterwards."""
    pos, rows = 2 * main.n_batch, main.spec.n_outputs
    prefill(main, pos)
    for _ in range(4):
        main.evaluate(ids(rows), pos, outputs=rows)
        main.logits(-1)
        if drafter is not None:
            drafter.sync(ids(rows), pos, main.hidden(rows))
            draft([drafter], [100], [pos + rows], 2)
        pos += rows
    main.wait()


def compare(plan: Plan, device: Device, lines: Sequence[str]) -> dict[str, Any]:
    """Return what is planned for a device and what llama.cpp logs as allocated there, in MiB."""
    usage = next(usage for usage in plan.usage if usage.device == device.name)
    sizes = usage.parts | {"weights": usage.weights}
    used = dict.fromkeys(PARTS, 0.0)
    for buffer, part, size in BUFFER.findall("".join(lines)):
        if buffer in (device.name, f"RPC0[{device.endpoint}]"):
            used[part] += float(size)
    found: dict[str, Any] = {}
    for part, names in PARTS.items():
        planned = sum(sizes.get(name, 0) for name in names) / MIB
        found[part] = f"{planned:.1f}/{used[part]:.1f}" + (f"={planned / used[part]:.3f}" if used[part] else "")
    planned, allocated = (usage.used - usage.parts.get("reserve", 0)) / MIB, sum(used.values())
    found["sum"] = f"{planned:.0f}/{allocated:.0f}" + (f"={planned / allocated:.3f}" if allocated else "")
    found["reserve"] = usage.parts.get("reserve", 0) // MIB
    return found


# ---- a device that is in use -------------------------------------------------------------------------------------


@contextmanager
def held(left: int, device: Device) -> Iterator[None]:
    """Hold the memory of the first NVIDIA GPU but `left` bytes, in another process; of other devices nothing."""
    size = device.free - left
    if not device.name.startswith("CUDA") or size <= 0:
        yield
        return
    command = [sys.executable, "-c", BALLOON, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline().strip() != "0":
            raise SystemExit("the memory of the GPU cannot be held")
        try:
            yield
        finally:
            process.stdin.close()


def as_used(case: Case, setup: Setup) -> dict[str, Any]:
    """Load a model as a user loads it on a device that is nearly full, and generate."""
    with held(case.limit, setup.device()):
        before, free = in_use(), setup.device().free
        with Qwen35(case.file, n_ctx=case.n_ctx, devices=setup.devices, rpc=setup.rpc, draft=2, profile=False) as model:
            text = model.generate("The river rises in the hills" * 100, max_tokens=16, temperature=0).text
            return {"free": free // MIB, "used": (in_use() - before) // MIB, "placed": model.offload, "text": len(text)}


def main() -> None:
    """Measure one case and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--device", action="append", default=[])
    parser.add_argument("--rpc", action="append", default=[])
    options = parser.parse_args()
    setup = Setup(Path(), tuple(options.device), tuple(options.rpc), threads=default_threads())
    case = Case(**json.loads(options.case))
    print(json.dumps((as_used if case.held else measure)(case, setup), default=str))


if __name__ == "__main__":
    main()
