"""Where to put a model on a machine with GPUs, from its header alone: what goes where, and what it takes there.

llama.cpp places whole layers, counted from the end (`n_gpu_layers`): their weights, and their KV cache or recurrent
state. Single tensors can be moved from there (`override_tensor`), which is done here for the feed-forward parts. The
embedding stays on the host: one row of it is read.

A token is as fast as the bytes that are read for it. Hence the value of a part is how many of its bytes a token moves
for each byte that it takes: 1 for most weights, 1/32 for experts of which 8 of 256 are used, more than 1 for what
drafting uses as well (the output, the MTP block) and for recurrent states, which are read and written, and 1/2 for a
KV cache that is half full. Every way of llama.cpp's to fill the GPUs is tried, the parts of least value going to the
host first, and the one that moves the least is taken; passing from one device to the other and back has its price.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qwen35_gguf.errors import DeviceError, MemoryLimitError
from qwen35_gguf.runtime import activations, memory
from qwen35_gguf.runtime.devices import WORKER, Device
from qwen35_gguf.runtime.gguf_header import GgufHeader, TensorInfo

HOST = "CPU"
WEIGHTS = ("embedding", "DeltaNet", "attention", "feed-forward", "experts", "MTP", "output")
GPU_RESERVE = 512 << 20  # of each GPU: the driver's context, and work memory outside of llama.cpp's buffers
GPU_SPEED = 8  # times as fast as the host reads memory; only the order of plans depends on it
CROSSING = 1 << 20  # bytes that the host reads in the time that passing to another device takes
MESSAGE = 16 << 20  # and to another machine, about a millisecond
FULL = 0.5  # part of the context that is in use, on average
DRAFTS = 1  # tokens drafted a step, on average


@dataclass(frozen=True)
class Machine:
    """Bytes that may be used of the host's memory, and GPUs."""

    ram: int
    gpus: tuple[Device, ...] = ()


class Unit(NamedTuple):
    """Something that is placed as a whole: of a layer its mixer with its state, or its feed-forward part.

    Attributes:
        layer: number; the output is the one after the last.
        kind: attention, DeltaNet, feed-forward, experts, MTP or output.
        weights: bytes.
        state: bytes, of the KV cache or the recurrent state.
        moved: bytes for a token.
        movable: whether llama.cpp can place it apart from its layer.

    """

    layer: int
    kind: str
    weights: int
    state: int
    moved: int
    movable: bool


@dataclass(frozen=True)
class Usage:
    """What is on a device: bytes by part, how many of them a token moves, and how fast next to the host."""

    device: str
    capacity: int
    parts: dict[str, int]
    moved: int
    speed: float = 1

    @property
    def used(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def weights(self) -> int:
        """The weights of the text model; on the host they are pages of the file, if they are not repacked."""
        return sum(self.parts.get(part, 0) for part in WEIGHTS)


@dataclass(frozen=True)
class Placement:
    """Where a part of a layer is."""

    layer: int
    kind: str
    device: str


@dataclass(frozen=True)
class Plan:
    """A model on a machine.

    Attributes:
        model: name of the file.
        n_ctx: cells.
        kv_type: of the KV cache.
        usage: of the host, then of each GPU.
        placements: of each unit, in the order of computation.
        n_gpu_layers: for llama.cpp; with the output and the MTP block, whether or not that is loaded.
        tensor_split: how many of these layers each GPU gets.
        overrides: pairs of a pattern for names of tensors and the device whose buffers they go to.
        crossings: how often a token passes to another device.
        messages: how often a token passes to another machine.

    """

    model: str
    n_ctx: int
    kv_type: str
    usage: tuple[Usage, ...]
    placements: tuple[Placement, ...]
    n_gpu_layers: int
    tensor_split: tuple[int, ...]
    overrides: tuple[tuple[str, str], ...]
    crossings: int
    messages: int = 0

    @property
    def cost(self) -> float:
        """How long a token takes, in bytes that the host reads in that time."""
        moved = sum(usage.moved / usage.speed for usage in self.usage)
        return int(moved) + self.crossings * CROSSING + self.messages * MESSAGE


def reserve_of(device: Device) -> int:
    """Return what is left free of a device's memory; a worker's is that of a processor, or it leaves its own."""
    return 0 if device.kind == WORKER else GPU_RESERVE


# ---- the parts of a model ----------------------------------------------------------------------------------------


def _role(tensor: TensorInfo) -> str:
    name = tensor.name.split(".")[2]
    if name.endswith("_exps"):
        return "experts"
    if name in ("ffn_gate", "ffn_up", "ffn_down"):
        return "feed-forward"
    return "mixer"  # with norms, the router and the shared expert


def units_of(
    header: GgufHeader, *, n_ctx: int, kv_type: str, sequences: int, rollback: int, mtp: bool
) -> tuple[list[Unit], int]:
    """Take a model apart, in the order of computation, and return also the bytes of the embedding."""
    shape = memory.model_shape(header, patched=memory.patched_runtime())
    layers = memory.trunk_layers(header)
    cache = memory.cells_of(n_ctx) * memory.kv_cell_bytes(shape, kv_type)
    one_state = memory.state_bytes(shape)
    weights: dict[tuple[int, str], int] = {}
    others: dict[str, int] = {}
    for tensor in header.tensors:
        layer = memory.layer_of(tensor)
        if layer is None:
            others[tensor.name] = tensor.n_bytes
        elif layer < layers or mtp:
            key = layer, _role(tensor)
            weights[key] = weights.get(key, 0) + tensor.n_bytes
    drafts = DRAFTS if mtp else 0
    units = []
    for (layer, role), n_bytes in sorted(weights.items(), key=lambda item: (item[0][0], item[0][1] != "mixer")):
        state, moved, kind = 0, n_bytes, role
        if role == "experts":
            moved = n_bytes * shape.experts_used // max(1, shape.experts)
        elif role == "mixer" and layer < layers and shape.recurrent[layer]:
            kind, state = "DeltaNet", one_state * sequences * (1 + rollback)
            moved += one_state * (2 + rollback)  # one is read, one is written, and one for each token to be taken back
        elif role == "mixer":
            kind, state = "attention" if layer < layers else "MTP", cache
            moved += int(cache * FULL) // sequences
        uses = drafts if layer >= layers else 1
        units.append(Unit(layer, kind, n_bytes, state, moved * uses, role != "mixer"))
    embedding = others.pop("token_embd.weight")
    matrix = others.pop("output.weight", embedding)
    draft_rows = matrix * shape.draft_vocabulary // shape.vocabulary
    norms = sum(others.values())
    last = int(header.require("block_count"))
    units.append(Unit(last, "output", matrix + norms, 0, matrix + norms + drafts * draft_rows, False))
    return units, embedding


def overrides_of(units: Sequence[Unit], device: str) -> Iterator[tuple[str, str]]:
    """Yield the patterns for tensors that are not where their layer is."""
    names = {"experts": r"ffn_\w+_exps\.", "feed-forward": r"ffn_(gate|up|down)\."}
    for kind, tensors in names.items():
        layers = "|".join(str(unit.layer) for unit in units if unit.kind == kind)
        if layers:
            yield rf"^blk\.({layers})\.{tensors}", device


# ---- placing -----------------------------------------------------------------------------------------------------


class _Room(NamedTuple):
    """What is known before anything is placed."""

    estimate: memory.Estimate
    capacity: tuple[int, ...]  # of each GPU for units
    gpu_compute: int
    gpu_mtp_compute: int
    idle_compute: int  # of a host that computes nothing but the embedding


def _room(header: GgufHeader, machine: Machine, options: dict[str, Any]) -> _Room:
    needed = memory.estimate(header, **options)  # of the weights nothing is used: a copy takes as much as a page
    patched = memory.patched_runtime()
    shape = memory.model_shape(header, patched=patched)
    sequences, rollback = options["sequences"], options["rollback"]
    run = memory.run_of(
        options["n_ctx"], options["n_batch"], options["kv_type"], sequences, rollback, options["outputs"], patched
    )._replace(host_states=False)
    compute = activations.trunk_bytes(shape, run)
    head = activations.mtp_bytes(shape, run._replace(outputs=min(run.tokens, sequences))) if options["mtp"] else 0
    idle = run.tokens * (2 * activations.F32 * shape.embedding + activations.F16 * run.cells)
    capacity = tuple(gpu.free - reserve_of(gpu) - compute for gpu in machine.gpus)
    return _Room(needed, capacity, compute, head, idle)


def _fill(layers: Sequence[int], capacity: Sequence[int]) -> list[int] | None:
    """Put layers of these sizes on GPUs in their order; return how many each GPU gets, None if they do not all fit."""
    counts, gpu, left = [0] * len(capacity), 0, capacity[0]
    for size in layers:
        while size > left:
            gpu += 1
            if gpu == len(capacity):
                return None
            left = capacity[gpu]
        counts[gpu], left = counts[gpu] + 1, left - size
    return counts


def _candidates(units: list[Unit], last: int, room: _Room) -> Iterator[tuple[int, list[int], set[Unit], set[Unit]]]:
    """Yield n_gpu_layers, layers of each GPU, what is moved from there to the host, and what is moved to the first GPU.

    Every number of layers is tried; what does not fit goes to the host, the least valuable first, as few as possible.
    """
    # whichever GPU gets the MTP block also needs what its context computes
    capacity = [size - room.gpu_mtp_compute for size in room.capacity]
    for n_gpu_layers in range(1, last + 2):
        start = last + 1 - n_gpu_layers
        there = [unit for unit in units if unit.layer >= start]
        movable = sorted((unit for unit in there if unit.movable), key=lambda unit: unit.moved / unit.weights)

        def counts_without(
            count: int, start: int = start, there: list[Unit] = there, movable: list[Unit] = movable
        ) -> list[int] | None:
            sizes = [0] * (last + 1 - start)  # an MTP block that is not loaded counts as a layer
            for unit in there:
                sizes[unit.layer - start] += unit.weights + unit.state
            for unit in movable[:count]:
                sizes[unit.layer - start] -= unit.weights
            return _fill(sizes, capacity)

        low, high = 0, len(movable)
        if counts_without(high) is None:
            continue
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if counts_without(middle) is not None else (middle + 1, high)
        counts = counts_without(low)
        assert counts is not None
        gone = set(movable[:low])
        added: set[Unit] = set()
        if not gone:
            kept = sum(unit.weights + unit.state for unit in there if unit.layer < start + counts[0])
            left = capacity[0] - kept if counts[0] else 0
            for unit in reversed([unit for unit in units if unit.layer < start and unit.movable]):
                if unit.weights <= left:
                    added.add(unit)
                    left -= unit.weights
        yield n_gpu_layers, counts, gone, added


def place(
    header: GgufHeader,
    machine: Machine,
    *,
    n_ctx: int,
    n_batch: int = 512,
    kv_type: str = "f16",
    sequences: int = 1,
    rollback: int = 0,
    outputs: int = 1,
    mtp: bool = False,
    checkpoints: int = 0,
    mmproj: GgufHeader | None = None,
) -> tuple[Plan, int]:
    """Find the plan that moves the fewest bytes, and by how many bytes it does not fit (0 if it does).

    Args:
        header: of the text model.
        machine: what there is.
        n_ctx: cells; this and the others as of `memory.estimate`.
        n_batch: tokens of a call.
        kv_type: of both caches.
        sequences: how many share the cells.
        rollback: tokens that may be taken back.
        outputs: rows with logits.
        mtp: with the MTP head, if the file has one.
        checkpoints: states that a prefix cache keeps.
        mmproj: of the vision tower, which stays on the host.

    """
    mtp = mtp and memory.has_mtp(header)
    options = {"n_ctx": n_ctx, "n_batch": n_batch, "kv_type": kv_type, "sequences": sequences, "rollback": rollback}
    options |= {"outputs": outputs, "mtp": mtp, "checkpoints": checkpoints, "mmproj": mmproj}
    room = _room(header, machine, options)
    units, embedding = units_of(header, n_ctx=n_ctx, kv_type=kv_type, sequences=sequences, rollback=rollback, mtp=mtp)
    last = units[-1].layer
    finish = functools.partial(_finish, header, machine, room, units, embedding, n_ctx, kv_type)
    plans = [finish(0, [0] * len(machine.gpus), set(), set())]
    if machine.gpus:
        plans += [finish(*candidate) for candidate in _candidates(units, last, room)]
    return min(((plan, _shortage(plan, machine)) for plan in plans), key=lambda pair: (pair[1], pair[0].cost))


def _shortage(plan: Plan, machine: Machine) -> int:
    shared = {gpu.name for gpu in machine.gpus if gpu.shared}
    host = sum(usage.used for usage in plan.usage if usage.device == HOST or usage.device in shared)
    others = (usage for usage in plan.usage if usage.device != HOST)
    return max(0, host - machine.ram) + sum(max(0, usage.used - usage.capacity) for usage in others)


def _finish(
    header: GgufHeader,
    machine: Machine,
    room: _Room,
    units: list[Unit],
    embedding: int,
    n_ctx: int,
    kv_type: str,
    n_gpu_layers: int,
    counts: list[int],
    gone: set[Unit],
    added: set[Unit],
) -> Plan:
    """Add up what each device has."""
    start = units[-1].layer + 1 - n_gpu_layers
    ends = list(itertools.accumulate(counts, initial=start))
    names = [gpu.name for gpu in machine.gpus]

    def home(unit: Unit) -> str:
        if unit.layer < start:
            return HOST
        return next(name for name, end in zip(names, ends[1:], strict=True) if unit.layer < end)

    parts: dict[str, dict[str, int]] = {name: {} for name in [HOST, *names]}
    moved = dict.fromkeys(parts, 0)
    placements = []

    def add(device: str, part: str, n_bytes: int) -> None:
        if n_bytes:
            parts[device][part] = parts[device].get(part, 0) + n_bytes

    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    add(HOST, "embedding", embedding)
    for unit in units:
        device = HOST if unit in gone else names[0] if unit in added else home(unit)
        placements.append(Placement(unit.layer, unit.kind, device))
        shown = unit.weights - embedding if unit.kind == "output" and tied and device == HOST else unit.weights
        add(device, unit.kind, shown)
        add(home(unit), "recurrent states" if unit.kind == "DeltaNet" else "KV cache", unit.state)
        moved[device] += unit.moved
    needed, used = room.estimate, {placement.device for placement in placements}
    for name in names:
        if name in used:
            add(name, "compute", room.gpu_compute)
            add(name, "reserve", reserve_of(next(gpu for gpu in machine.gpus if gpu.name == name)))
    head = next((place.device for place in placements if place.kind == "MTP"), HOST)
    add(HOST, "compute", needed.compute if HOST in used else room.idle_compute)
    add(head, "compute", needed.mtp_compute if head == HOST else room.gpu_mtp_compute)
    add(HOST, "logits", needed.outputs + needed.mtp_outputs)
    add(HOST, "prefix cache", needed.checkpoints)
    add(HOST, "vision", needed.vision_weights + needed.vision_compute)
    add(HOST, "vocabulary", needed.bookkeeping)
    capacity = {HOST: machine.ram} | {gpu.name: gpu.free for gpu in machine.gpus}
    speed = {HOST: 1.0} | {gpu.name: 1.0 if gpu.kind == WORKER else GPU_SPEED for gpu in machine.gpus}
    remote = {gpu.name for gpu in machine.gpus if gpu.kind == WORKER}
    order = [HOST, *(place.device for place in placements), HOST]
    return Plan(
        model=header.path.name,
        n_ctx=n_ctx,
        kv_type=kv_type,
        usage=tuple(Usage(name, capacity[name], parts[name], moved[name], speed[name]) for name in parts),
        placements=tuple(placements),
        n_gpu_layers=n_gpu_layers,
        tensor_split=tuple(counts),
        overrides=tuple(
            itertools.chain(
                overrides_of([unit for unit in units if unit in gone], HOST),
                overrides_of([unit for unit in units if unit in added], names[0] if names else HOST),
            )
        ),
        crossings=sum(one != other for one, other in itertools.pairwise(order)),
        messages=sum(one != other and bool(remote & {one, other}) for one, other in itertools.pairwise(order)),
    )


# ---- what fits ---------------------------------------------------------------------------------------------------


def largest_context(
    header: GgufHeader, machine: Machine, *, limit: int = memory.LONGEST_CONTEXT, on_gpus: bool = False, **options: Any
) -> int:
    """Find the most cells, a multiple of 256, that fit; 0 when nothing does.

    Args:
        header: of the text model.
        machine: what there is.
        limit: cells at most.
        on_gpus: with every layer on a GPU.
        options: those of `place` other than `n_ctx`.

    """

    def fits(steps: int) -> bool:
        plan, shortage = place(header, machine, n_ctx=steps * memory.CELLS, **options)
        everything = not on_gpus or all(placement.device != HOST for placement in plan.placements)
        return shortage == 0 and everything

    return memory.most_steps(fits, max(1, limit // memory.CELLS)) * memory.CELLS


def make_plan(header: GgufHeader, machine: Machine, *, n_ctx: int, **options: Any) -> Plan:
    """Find the best plan.

    Args:
        header: of the text model.
        machine: what there is.
        n_ctx: cells.
        options: those of `place`.

    Raises:
        MemoryLimitError: none fits; says what is short, by how much, and what would fit.
        ContextError: a number makes no sense.
        ModelError: it is not a text model of this family.

    """
    if machine.ram <= 0 or any(gpu.free <= 0 for gpu in machine.gpus):
        raise DeviceError("a machine with no memory: give sizes above 0")
    memory.rope_scaling(header, n_ctx)
    plan, shortage = place(header, machine, n_ctx=n_ctx, **options)
    if shortage == 0:
        return plan

    def longest(file: GgufHeader, limit: int, changed: dict[str, Any]) -> int:
        return largest_context(file, machine, limit=limit, **changed)

    advice = " or ".join(memory.what_fits(header, longest, n_ctx=n_ctx, **options))
    host = plan.usage[0]
    there = " + ".join(
        [
            f"{memory.gigabytes(machine.ram)} of RAM",
            *(f"{memory.gigabytes(gpu.free)} of {gpu.name}" for gpu in machine.gpus),
        ]
    )
    what = f"n_ctx {n_ctx:,} needs {memory.gigabytes(host.used)} of RAM with the GPUs filled"
    if not machine.gpus:
        what = f"n_ctx {n_ctx:,} needs {memory.gigabytes(host.used)} of RAM"
    raise MemoryLimitError(f"{plan.model}: {what}, {memory.gigabytes(shortage)} more than there is ({there}); {advice}")


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON has it."""
    return dataclasses.asdict(plan)
