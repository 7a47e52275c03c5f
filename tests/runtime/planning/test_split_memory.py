"""What a plan says of each device is what llama.cpp allocates there: weights, caches, states and activations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import allocator
from oracles.rpc import free_port, worker
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import MemoryLimitError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.llama.devices import Device
from qwen35_gguf.runtime.planning import activations, allocation, memory, offload
from qwen35_gguf.runtime.planning.allocation import Graph, Node
from qwen35_gguf.runtime.planning.offload import Offload
from qwen35_gguf.runtime.planning.placement import HOST, Machine, Plan, make_plan
from qwen35_gguf.runtime.planning.scheduling import schedule

GB, MIB = 10**9, 1 << 20
SMALLEST = 0.0151  # llama.cpp gives two decimals; ours are rounded up to a GPU's alignment
PART, TOTAL = 0.002, 0.002
PLANNED = {"compute": "compute", "MTP compute": "MTP compute", "recurrent states": "RS"}  # ours and llama.cpp's names
ALLOCATED = PLANNED | {"KV cache": "KV", "weights": "model"}
KV = {"f16": 1, "q8_0": 8, "f32": 0}
DRAFTING: dict[str, Any] = {"mtp": True, "rollback": 4, "outputs": 5}

# name, GB of RAM that may be used, GB of each worker, options
CASES: dict[str, tuple[str, float, tuple[float, ...], dict[str, Any]]] = {
    "everything": ("9b", 1.1, (12,), DRAFTING | {"n_ctx": 16384}),
    "everything, small": ("0.8b", 0.4, (4,), DRAFTING | {"n_ctx": 8192}),
    "no MTP head": ("0.8b", 0.35, (4,), {"n_ctx": 8192}),
    "layers": ("9b", 4, (4.5,), DRAFTING | {"n_ctx": 16384, "kv_type": "q8_0"}),
    "feed-forward of layers on the host": ("9b", 2.7, (4.5,), DRAFTING | {"n_ctx": 16384}),
    "feed-forward of a layer elsewhere": ("9b", 5, (2.6,), DRAFTING | {"n_ctx": 16384}),
    "layers and experts": ("35b-a3b", 14, (8,), DRAFTING | {"n_ctx": 8192, "kv_type": "q8_0"}),
    "experts on the host": ("35b-a3b", 13, (8.6,), {"n_ctx": 32768}),
    "layers of two devices": ("9b", 2, (3, 3), DRAFTING | {"n_ctx": 8192}),
    "experts of two devices": ("35b-a3b", 8, (8, 8), DRAFTING | {"n_ctx": 32768, "kv_type": "q8_0"}),
    "sequences": ("9b", 4, (4,), {"n_ctx": 8192, "sequences": 4, "outputs": 4}),
    "small batch": ("9b", 4, (3,), DRAFTING | {"n_ctx": 8192, "n_batch": 16}),
}


@pytest.fixture(scope="module")
def devices() -> Iterator[list[Device]]:
    ports = [free_port(), free_port()]
    with worker(ports[0]), worker(ports[1]):
        yield offload.find(workers=[f"127.0.0.1:{port}" for port in ports])


def planned(file: Path, devices: list[Device], ram: float, sizes: tuple[float, ...], options: dict[str, Any]) -> Plan:
    """Plan as if the workers had so many bytes of their own."""
    there = [replace(device, free=int(size), shared=False) for device, size in zip(devices, sizes, strict=False)]
    return make_plan(read_header(file), Machine(int(ram), tuple(there)), **options)


def told(plan: Plan, devices: list[Device]) -> Offload:
    return offload.of_plan(plan, devices[: len(plan.usage) - 1])


def context_params(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of `llama_context_params` of the trunk's context and of the MTP head's."""
    sequences, batch = options.get("sequences", 1), options.get("n_batch", 512)
    kind = KV[options.get("kv_type", "f16")]
    both = {"n_ctx": options["n_ctx"], "n_batch": batch, "n_ubatch": batch, "type_k": kind, "type_v": kind}
    both |= {"n_seq_max": sequences, "kv_unified": sequences > 1}
    outputs = max(options.get("outputs", 1), sequences)
    trunk = both | {"n_rs_seq": options.get("rollback", 0), "n_outputs_max": outputs}
    return trunk, both | {"n_outputs_max": sequences}


def allocated(file: Path, chosen: Offload, options: dict[str, Any], *, weights: bool) -> dict[str, dict[str, float]]:
    """MiB by part and device, as llama.cpp says."""
    fields, keep = offload.model_params(chosen)
    trunk, head = context_params(options)
    with allocator.loaded(file, weights=weights, **fields | ({"load_mode": 0} if weights else {})) as (model, _):
        found = {"model": allocator.said_of_devices()["model"]}
        with allocator.made(model, **trunk) as (context, _):
            found |= allocator.said_of_devices()
            if options.get("mtp"):
                with allocator.made(model, trunk=context, **head):
                    said = allocator.said_of_devices()
                    found["MTP compute"] = said["compute"]
                    found["KV"] = {
                        name: found["KV"].get(name, 0) + said["KV"].get(name, 0) for name in {*found["KV"], *said["KV"]}
                    }
    del keep
    return found


def compare(plan: Plan, devices: list[Device], found: dict[str, dict[str, float]], parts: dict[str, str]) -> None:
    """Compare parts of ours, by their names, with those of llama.cpp's, on each device; nothing is left out."""
    addresses = {device.name: device.endpoint for device in devices} | {HOST: "CPU"}
    for usage in plan.usage:
        pairs = {
            name: (
                (usage.parts | {"weights": usage.weights}).get(name, 0) / MIB,
                found.get(theirs, {}).get(addresses[usage.device], 0.0),
            )
            for name, theirs in parts.items()
        }
        for name, (ours, theirs) in pairs.items():
            assert ours == pytest.approx(theirs, rel=PART, abs=SMALLEST), (usage.device, name)
        ours, theirs = (sum(sizes) for sizes in zip(*pairs.values(), strict=True))
        assert ours == pytest.approx(theirs, rel=TOTAL, abs=len(pairs) * SMALLEST), usage.device


@pytest.mark.parametrize("label", CASES)
def test_devices_need_what_llama_cpp_plans(real: Callable[[str], Path], devices: list[Device], label: str) -> None:
    name, ram, sizes, options = CASES[label]
    file = real(name)
    plan = planned(file, devices, ram * GB, tuple(size * GB for size in sizes), options)
    assert plan.n_gpu_layers > 0
    compare(plan, devices, allocated(file, told(plan, devices), options, weights=False), PLANNED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0.8b", "9b", "35b-a3b"])
def test_any_split_needs_what_llama_cpp_plans(real: Callable[[str], Path], devices: list[Device], name: str) -> None:
    file, random = real(name), Random(5)
    whole = make_plan(read_header(file), Machine(1 << 50), n_ctx=16384, **DRAFTING).usage[0].used
    tried = 0
    while tried < 25:
        options = (DRAFTING if random.random() < 0.7 else {}) | {"n_ctx": random.choice([512, 8192, 65536])}
        options |= {"kv_type": random.choice(list(KV)), "n_batch": random.choice([16, 512, 512, 2048])}
        sizes = tuple(random.uniform(0.05, 1) * whole for _ in range(random.choice([1, 2])))
        try:
            plan = planned(file, devices, random.uniform(0.1, 0.9) * whole, sizes, options)
        except MemoryLimitError:
            continue
        # llama.cpp's own planning forgets where norms are to be computed, if several devices have everything
        if not plan.n_gpu_layers or (sum(plan.tensor_split) > max(plan.tensor_split) and plan.usage[0].moved == 0):
            continue
        compare(plan, devices, allocated(file, told(plan, devices), options, weights=False), PLANNED)
        tried += 1


@pytest.mark.parametrize("options", [{"tied": False, "seed": 3}, {"moe": True, "seed": 6}], ids=str)
def test_devices_get_what_llama_cpp_allocates(
    checkpoint: Callable[..., Path], tmp_path: Path, devices: list[Device], options: dict[str, Any]
) -> None:
    file = hf_to_gguf.convert(checkpoint(**options), "Q8_0", tmp_path, vision=False)[0]
    case = DRAFTING | {"n_ctx": 4096}
    whole = make_plan(read_header(file), Machine(1 << 50), **case).usage[0].used
    layers = set()
    for ram, *sizes in itertools.product((0.99, 0.97, 0.93, 0.8), (0.02, 0.1, 1), (0.05, 1)):
        try:
            plan = planned(file, devices, ram * whole, tuple(size * whole for size in sizes), case)
        except MemoryLimitError:
            continue
        if plan.n_gpu_layers and (split := (plan.n_gpu_layers, plan.tensor_split)) not in layers:
            layers.add(split)
            compare(plan, devices, allocated(file, told(plan, devices), case, weights=True), ALLOCATED)
    assert len(layers) > 3


def compare_layout(
    file: Path, devices: list[Device], layers: list[int], *, weights: bool, draft_weights: int = 0
) -> None:
    """Compare the activations with so many layers on each device, the output among them."""
    case = DRAFTING | {"n_ctx": 4096}
    header, run = read_header(file), memory.run_of(4096, 512, "f16", 1, 4, 5, patched=True)
    shape, count, used = memory.model_shape(header), sum(layers), devices[: len(layers)]
    start = len(shape.recurrent) + 2 - count
    homes = [len(layers)] * start + [device for device, there in enumerate(layers) for _ in range(there)]
    mixers = tuple(homes[:-1])
    layout = activations.Layout(
        (False,) * len(layers), mixers, mixers, homes[-1], full=start == 0, draft_weights=draft_weights
    )
    split = tuple(float(there) for there in layers) if len(layers) > 1 else ()
    found = allocated(file, Offload(tuple(used), count, split), case, weights=weights)
    for part, sizes in (
        ("compute", activations.trunk_sizes(shape, run, layout)),
        ("MTP compute", activations.mtp_sizes(shape, run._replace(outputs=1), layout)),
    ):
        for device, size in zip([*(device.endpoint for device in used), "CPU"], sizes, strict=True):
            theirs = found[part].get(device, 0)
            assert size / MIB == pytest.approx(theirs, rel=PART, abs=SMALLEST), (layers, device, part)


def test_several_calls_at_once(real: Callable[[str], Path], devices: list[Device]) -> None:
    """As llama.cpp computes if several devices have everything."""
    compare_layout(real("0.8b"), devices, [12, 14], weights=True)


def test_a_head_for_a_part_of_the_vocabulary(tmp_path: Path, devices: list[Device]) -> None:
    """Its product is not always where its weights are, as it has a view of them, which is copied then."""
    file = allocator.sparse_model(tmp_path / "variant.gguf", "35b-a3b", draft_rows=50000, merged=True)
    (output,) = (tensor for tensor in read_header(file).tensors if tensor.name == "output.weight")
    for layers in ([1], [2], [10], [42], [9, 1], [8, 2]):
        drafted = output.nbytes * 50000 // output.shape[0]
        compare_layout(file, devices, layers, weights=False, draft_weights=drafted)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_operand_is_where_it_is_used(data: st.DataObject) -> None:
    host = data.draw(st.integers(1, 3))
    anywhere = st.integers(0, host)
    nodes = [Node((4,), device=host), allocation.outside(128, data.draw(anywhere))]
    graph = Graph()
    for _ in range(data.draw(st.integers(1, 25))):
        parents = tuple(data.draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3, unique=True)))
        device = data.draw(st.one_of(st.just(allocation.ANYWHERE), anywhere))
        kind = data.draw(st.sampled_from(["new", "store", "view"]))
        if kind == "new":
            node = allocation.new(4, of=parents, on=device)
        elif kind == "store":
            node = allocation.store(*parents, on=data.draw(anywhere))
        else:
            node = allocation.view(parents[0], 2)
        node.host_only = node.device in (allocation.ANYWHERE, host) and data.draw(st.booleans())
        graph.add(node)
        if kind != "store":
            nodes.append(node)
    told = {node: node.device for node in graph.nodes if node.root is None and node.device != allocation.ANYWHERE}
    schedule(graph, host, copies=data.draw(st.sampled_from([1, 4])))
    for node in graph.nodes:
        assert 0 <= node.device <= host
        assert node.device == (node.root or node).device == told.get(node, node.device)
        assert not node.host_only or node.root or node.device == host
        assert node.root or all(parent.device == node.device for parent in node.parents)
    own = [node for node in (*graph.inputs, *graph.nodes) if node.root is None and not node.outside]
    for device, size in enumerate(allocation.buffer_sizes(graph, [32] * (host + 1))):
        assert size <= sum(max(32, node.n_bytes) for node in own if node.device == device)


def test_a_gpu_makes_room_for_weights_and_caches_of_the_host(real: Callable[[str], Path]) -> None:
    """Which it takes for large calls; there is no GPU here to compare with."""
    header = read_header(real("9b"))
    shape, run = memory.model_shape(header), memory.run_of(65536, 512, "f16", 1, 0, 1, patched=True)
    host = (1,) * 33
    layout = activations.Layout(
        (False,), host, host, 1, mixer_weights=(1 * MIB,) * 33, feed_forward_weights=(99 * MIB,) * 33
    )
    assert activations.trunk_sizes(shape, run, layout) == (0, activations.trunk_bytes(shape, run))
    gpu, _ = activations.trunk_sizes(shape, run, layout._replace(gpus=(True,)))
    cache = memory.kv_cell_bytes(shape, "f16") * run.cells
    assert gpu > max(99 * MIB, cache)
    small = run._replace(tokens=16)
    assert activations.trunk_sizes(shape, small, layout._replace(gpus=(True,)))[0] == 0
