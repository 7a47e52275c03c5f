"""What a plan states for each device is what llama.cpp allocates there: weights, caches, states and activations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from oracles import allocator
from oracles.rpc import free_port, rpc_server
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import MemoryLimitError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import ContextSpec, MemoryRequest
from qwen35_gguf.runtime.llama.context import context_fields
from qwen35_gguf.runtime.llama.devices import Device, Offload
from qwen35_gguf.runtime.llama.model import offload_fields
from qwen35_gguf.runtime.planning import memory, offload
from qwen35_gguf.runtime.planning.compute_buffers import Call, Share, Split, compute_buffers
from qwen35_gguf.runtime.planning.fitting import with_n_ctx
from qwen35_gguf.runtime.planning.placement import largest_context, plan_placement
from qwen35_gguf.runtime.planning.plan import CPU, Machine, Plan

GB, MIB = 10**9, 1 << 20
SMALLEST = 0.0151  # llama.cpp gives two decimals; ours are rounded up to a GPU's alignment
PART = 0.002  # of weights, caches and states, and of buffers that llama.cpp was asked for
TOTAL = 0.05  # of the formula for the buffers, of all that a device needs
BUFFERS = {"compute": "compute", "MTP compute": "MTP compute"}  # ours and llama.cpp's names
PLANNED = {"recurrent states": "RS"}
ALLOCATED = PLANNED | {"KV cache": "KV", "weights": "model"}


def drafting(n_ctx: int, n_batch: int = 512, kv_type: str = "f16") -> MemoryRequest:
    return MemoryRequest(ContextSpec(n_ctx, n_batch, kv_type=kv_type, n_rs_seq=4, n_outputs=5), mtp=True)


# name, GB of RAM that may be used, GB of each RPC server, request
CASES: dict[str, tuple[str, float, tuple[float, ...], MemoryRequest]] = {
    "everything": ("9b", 1.1, (12,), drafting(16384)),
    "everything, small": ("0.8b", 0.4, (4,), drafting(8192)),
    "no MTP head": ("0.8b", 0.35, (4,), MemoryRequest(ContextSpec(8192))),
    "layers": ("9b", 4, (4.5,), drafting(16384, kv_type="q8_0")),
    "feed-forward of layers on the CPU": ("9b", 2.7, (4.5,), drafting(16384)),
    "feed-forward of a layer elsewhere": ("9b", 5, (2.6,), drafting(16384)),
    "layers and experts": ("35b-a3b", 14, (8,), drafting(8192, kv_type="q8_0")),
    "experts on the CPU": ("35b-a3b", 13, (8.6,), MemoryRequest(ContextSpec(32768))),
    "layers of two devices": ("9b", 2, (3, 3), drafting(8192)),
    "experts of two devices": ("35b-a3b", 8, (8, 8), drafting(32768, kv_type="q8_0")),
    "sequences": ("9b", 4, (4,), MemoryRequest(ContextSpec(8192, n_seq=4, n_outputs=4))),
    "small batch": ("9b", 4, (3,), drafting(8192, 16)),
}


@pytest.fixture(scope="module")
def devices() -> Iterator[list[Device]]:
    ports = [free_port(), free_port()]
    with rpc_server(ports[0]), rpc_server(ports[1]):
        yield offload.find(endpoints=[f"127.0.0.1:{port}" for port in ports])


def machine(devices: list[Device], ram: float, sizes: tuple[float, ...]) -> Machine:
    """A machine whose RPC servers have memory of their own, of these sizes."""
    there = [replace(device, free=int(size), shared=False) for device, size in zip(devices, sizes, strict=False)]
    return Machine(int(ram), tuple(there))


def allocated(file: Path, chosen: Offload, request: MemoryRequest, *, weights: bool) -> dict[str, dict[str, float]]:
    """MiB by part and device, as llama.cpp reports them."""
    spec = request.context
    fields, keep = offload_fields(chosen)
    head = context_fields(replace(spec, n_rs_seq=0, n_outputs=spec.n_seq))
    with allocator.loaded(file, weights=weights, **fields | ({"load_mode": 0} if weights else {})) as (model, _):
        found = {"model": allocator.reported_by_device()["model"]}
        with allocator.made(model, **context_fields(spec)) as (main, _):
            found |= allocator.reported_by_device()
            if request.mtp:
                with allocator.made(model, main=main, **head):
                    drafter = allocator.reported_by_device()
                    found["MTP compute"] = drafter["compute"]
                    found["KV"] = {
                        name: found["KV"].get(name, 0) + drafter["KV"].get(name, 0)
                        for name in {*found["KV"], *drafter["KV"]}
                    }
    del keep
    return found


def compare(
    plan: Plan, devices: list[Device], found: dict[str, dict[str, float]], exact: dict[str, str], *, asked: bool = False
) -> None:
    """Compare each device's parts with llama.cpp's, by our names and its; buffers only roughly unless it was asked."""
    addresses = {device.name: device.endpoint for device in devices} | {CPU: "CPU"}
    for usage in plan.usage:
        sizes = usage.parts | {"weights": usage.weights}
        theirs = {
            ours: found.get(name, {}).get(addresses[usage.device], 0.0) for ours, name in (exact | BUFFERS).items()
        }
        for name in [*exact, *(BUFFERS if asked else ())]:
            assert sizes.get(name, 0) / MIB == pytest.approx(theirs[name], rel=PART, abs=SMALLEST), (usage.device, name)
        ours = usage.used / MIB
        difference = sum(sizes.get(name, 0) / MIB - theirs[name] for name in BUFFERS)
        assert ours == pytest.approx(ours - difference, rel=TOTAL, abs=len(BUFFERS) * SMALLEST), usage.device


@pytest.mark.parametrize("label", CASES)
def test_devices_need_what_llama_cpp_plans(real: Callable[[str], Path], devices: list[Device], label: str) -> None:
    name, ram, sizes, request = CASES[label]
    file = real(name)
    header, there = read_header(file), machine(devices, ram * GB, tuple(size * GB for size in sizes))
    used = devices[: len(sizes)]
    plan = plan_placement(header, there, request)
    assert plan.n_gpu_layers > 0
    found = allocated(file, offload.of_plan(plan, used), request, weights=False)
    compare(plan, devices, found, PLANNED)
    with offload.measuring(header, request, used) as measure:
        measured = plan_placement(header, there, request, measure)
    found = allocated(file, offload.of_plan(measured, used), request, weights=False)
    compare(measured, devices, found, PLANNED, asked=True)
    assert not any(measured.shortages(there))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0.8b", "9b", "35b-a3b"])
def test_any_split_needs_what_llama_cpp_plans(real: Callable[[str], Path], devices: list[Device], name: str) -> None:
    file, random = real(name), Random(5)
    header = read_header(file)
    whole = plan_placement(header, Machine(1 << 50), drafting(16384)).usage[0].used
    tried = 0
    while tried < 25:
        n_ctx, kv_type = random.choice([512, 8192, 65536]), random.choice(["f16", "q8_0", "f32"])
        request = drafting(n_ctx, random.choice([16, 512, 512, 2048]), kv_type)
        if random.random() > 0.7:
            request = MemoryRequest(replace(request.context, n_rs_seq=0, n_outputs=1))
        sizes = tuple(random.uniform(0.05, 1) * whole for _ in range(random.choice([1, 2])))
        there = machine(devices, random.uniform(0.1, 0.9) * whole, sizes)
        try:
            plan = plan_placement(header, there, request)
        except MemoryLimitError:
            continue
        # llama.cpp's own planning forgets where norms are to be computed, if several devices have everything
        if not plan.n_gpu_layers or (
            sum(plan.tensor_split) > max(plan.tensor_split) and plan.usage[0].bytes_per_token == 0
        ):
            continue
        chosen = offload.of_plan(plan, devices[: len(sizes)])
        compare(plan, devices, allocated(file, chosen, request, weights=False), PLANNED)
        tried += 1


@pytest.mark.parametrize("options", [{"tied": False, "seed": 3}, {"moe": True, "seed": 6}], ids=str)
def test_devices_get_what_llama_cpp_allocates(
    checkpoint: Callable[..., Path], tmp_path: Path, devices: list[Device], options: dict[str, object]
) -> None:
    file = hf_to_gguf.convert(checkpoint(**options), "Q8_0", tmp_path, vision=False)[0]
    header, request = read_header(file), drafting(4096)
    whole = plan_placement(header, Machine(1 << 50), request).usage[0].used
    layers = set()
    for ram, *sizes in itertools.product((0.99, 0.9, 0.8, 0.7), (0.02, 0.1, 0.4, 1), (0.05, 0.4, 1)):
        there = machine(devices, ram * whole, tuple(size * whole for size in sizes))
        try:
            with offload.measuring(header, request, devices) as measure:
                plan = plan_placement(header, there, request, measure)
        except MemoryLimitError:
            continue
        if plan.n_gpu_layers and (split := (plan.n_gpu_layers, plan.tensor_split)) not in layers:
            layers.add(split)
            found = allocated(file, offload.of_plan(plan, devices), request, weights=True)
            compare(plan, devices, found, ALLOCATED, asked=True)
    assert len(layers) > 3


def test_several_calls_at_the_same_time(real: Callable[[str], Path], devices: list[Device]) -> None:
    """As llama.cpp computes if several devices have everything: four copies of the inputs on each."""
    file, request = real("0.8b"), drafting(4096)
    header = read_header(file)
    both = (Share(True, True, True), Share(True, True, True, True, True, True))
    ours = compute_buffers(
        memory.architecture_of(header),
        Call.largest(request.context),
        Split(Share(), both, pipelined=True),
        mtp=True,
        patched=True,
    )
    found = allocated(file, Offload(tuple(devices), -1, (12.0, 14.0)), request, weights=True)
    for part, sizes in (("compute", ours.main), ("MTP compute", ours.mtp)):
        for name, size in zip([*(device.endpoint for device in devices), "CPU"], sizes, strict=True):
            assert size / MIB == pytest.approx(found[part].get(name, 0), rel=0.1, abs=SMALLEST), (part, name)


def test_the_longest_context_is_verified(real: Callable[[str], Path]) -> None:
    """What llama.cpp plans for it decides: it fits, and a little more does not."""
    header, request = read_header(real("0.8b")), drafting(512)
    there = Machine(1 * GB)
    with offload.measuring(header, request, []) as measure:
        formula, found = (largest_context(header, there, request, measure=how) for how in (None, measure))
        assert found == pytest.approx(formula, rel=0.1)
        for n_ctx, fits in ((found, True), (found + 512, False)):
            plan = plan_placement(header, Machine(1 << 50), with_n_ctx(request, n_ctx))
            used = plan.with_buffers(measure(plan)).usage[0].used
            assert (used <= there.ram) == fits


def test_a_gpu_makes_room_for_weights_and_caches_of_the_cpu(real: Callable[[str], Path]) -> None:
    """Which it uses in large calls; there is no GPU here to compare with."""
    header = read_header(real("9b"))
    model = memory.architecture_of(header)

    def buffers(n_batch: int, *, gpu: bool) -> tuple[int, ...]:
        split = Split(Share(True, True, True), (Share(output=True, gpu=gpu),), cpu_weights=99 * MIB)
        call = Call.largest(ContextSpec(65536, n_batch))
        return compute_buffers(model, call, split, mtp=False, patched=True).main

    cache = memory.kv_cache_bytes(model, 65536, "f16") // 8  # of one layer
    assert buffers(512, gpu=True)[0] > 99 * MIB + cache
    assert buffers(512, gpu=False)[0] < 99 * MIB
    assert buffers(16, gpu=True)[0] == buffers(16, gpu=False)[0]
