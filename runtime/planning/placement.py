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
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qwen35_gguf.errors import DeviceError, MemoryLimitError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.runtime.llama.devices import RPC_DEVICE, Device
from qwen35_gguf.runtime.planning import memory
from qwen35_gguf.runtime.planning.buffers import Bounds, Buffers, Choice, Graphs, bounds_of, buffers_of
from qwen35_gguf.runtime.planning.units import Unit, largest_tensors, overrides_of, units_of
from qwen35_gguf.units import format_size

HOST = "CPU"
WEIGHTS = ("embedding", "DeltaNet", "attention", "feed-forward", "experts", "MTP", "output")
GPU_RESERVE = 512 << 20  # of each GPU: the driver's context, and work memory outside of llama.cpp's buffers
GPU_SPEED = 8  # times as fast as the host reads memory; only the order of plans depends on it
CROSSING = 1 << 20  # bytes that the host reads in the time that passing to another device takes
MESSAGE = 16 << 20  # and to another machine, about a millisecond


@dataclass(frozen=True)
class Machine:
    """Bytes that may be used of the host's memory, and GPUs."""

    ram: int
    gpus: tuple[Device, ...] = ()


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
    return 0 if device.kind == RPC_DEVICE else GPU_RESERVE


# ---- placing -----------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """What is known before anything is placed."""

    header: GgufHeader
    machine: Machine
    n_ctx: int
    kv_type: str
    needed: memory.Estimate  # on the host alone; of the weights nothing is used: a copy takes as much as a page
    units: tuple[Unit, ...]
    embedding: int
    graphs: Graphs

    @property
    def last(self) -> int:
        """Number of the output's layer."""
        return self.units[-1].layer


def _task(header: GgufHeader, machine: Machine, options: dict[str, Any]) -> _Task:
    needed = memory.estimate(header, **options)
    patched, mtp = memory.patched_runtime(), options["mtp"]
    context = {key: options[key] for key in ("n_ctx", "kv_type", "sequences", "rollback")}
    units, embedding = units_of(header, **context, mtp=mtp)
    graphs = Graphs(
        shape=memory.model_shape(header, patched=patched),
        run=memory.run_of(**context, n_batch=options["n_batch"], outputs=options["outputs"], patched=patched),
        mtp=mtp,
        gpus=tuple(gpu.kind != RPC_DEVICE for gpu in machine.gpus),
        largest=largest_tensors(header),
        output=units[-1].weights,
    )
    return _Task(header, machine, options["n_ctx"], options["kv_type"], needed, tuple(units), embedding, graphs)


def _fill(layers: Sequence[int], capacity: Sequence[int]) -> tuple[int, ...] | None:
    """Put layers of these sizes on GPUs in their order; return how many each GPU gets, None if they do not all fit."""
    counts, gpu, left = [0] * len(capacity), 0, capacity[0]
    for size in layers:
        while size > left:
            gpu += 1
            if gpu == len(capacity):
                return None
            left = capacity[gpu]
        counts[gpu], left = counts[gpu] + 1, left - size
    return tuple(counts)


def _choices(task: _Task, bounds: Bounds) -> Iterator[Choice]:
    """Yield what to try, at first nothing on GPUs, then every number of layers.

    What does not fit goes to the host, the least valuable first, as few as possible.
    """
    gpus, units, last = task.machine.gpus, task.units, task.last
    yield Choice(0, (0,) * len(gpus))

    def capacity(start: int, gone: int) -> list[int]:
        assumed = bounds.of(start, last + 1 - start, gone)
        return [gpu.free - reserve_of(gpu) - compute for gpu, compute in zip(gpus, assumed, strict=False)]

    for n_gpu_layers in range(1, last + 2) if gpus else ():
        start = last + 1 - n_gpu_layers
        there = [unit for unit in units if unit.layer >= start]
        movable = sorted((unit for unit in there if unit.movable), key=lambda unit: unit.moved / unit.weights)

        def counts_without(
            count: int, start: int = start, there: list[Unit] = there, movable: list[Unit] = movable
        ) -> tuple[int, ...] | None:
            sizes = [0] * (last + 1 - start)  # an MTP block that is not loaded counts as a layer
            for unit in there:
                sizes[unit.layer - start] += unit.weights + unit.state
            for unit in movable[:count]:
                sizes[unit.layer - start] -= unit.weights
            return _fill(sizes, capacity(start, count))

        low, high = 0, len(movable)
        if counts_without(0) is None:
            if not high or counts_without(high) is None:
                continue
            low = 1
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if counts_without(middle) is not None else (middle + 1, high)
        counts = counts_without(low)
        assert counts is not None
        added: set[Unit] = set()
        if not low and counts[0]:
            kept = sum(unit.weights + unit.state for unit in there if unit.layer < start + counts[0])
            left = capacity(start, 0)[0] - kept
            for unit in reversed([unit for unit in units if unit.layer < start and unit.movable]):
                if unit.weights <= left:
                    added.add(unit)
                    left -= unit.weights
        yield Choice(n_gpu_layers, counts, frozenset(movable[:low]), frozenset(added))


class _Outcome(NamedTuple):
    """A plan, and by how many bytes it does not fit."""

    plan: Plan
    shortage: int


def _outcome(task: _Task, choice: Choice, buffers: Buffers) -> _Outcome:
    plan = _finish(task, choice, buffers)
    return _Outcome(plan, _shortage(plan, task.machine))


def _assumed(task: _Task, choice: Choice, bounds: Bounds) -> tuple[int, ...]:
    return bounds.of(task.last + 1 - choice.n_gpu_layers, choice.n_gpu_layers, len(choice.gone))


def _expected(task: _Task, bounds: Bounds) -> tuple[Choice, _Outcome]:
    """Find the best choice with buffers of the sizes that are assumed."""
    nothing = (0,) * (len(task.machine.gpus) + 1)
    pairs = (
        (choice, _outcome(task, choice, Buffers(_assumed(task, choice, bounds), nothing)))
        for choice in _choices(task, bounds)
    )
    return min(pairs, key=lambda pair: (pair[1].shortage, pair[1].plan.cost))


def _best(task: _Task, bounds: Bounds) -> tuple[Choice, Buffers, _Outcome]:
    """Find a choice that is the best with the buffers that it turns out to need."""
    while True:
        choice, expected = _expected(task, bounds)
        buffers = buffers_of(task.graphs, choice)
        found = _outcome(task, choice, buffers)
        higher = bounds.raised(_assumed(task, choice, bounds), buffers.together)
        if found.shortage <= expected.shortage or higher == bounds:
            return choice, buffers, found
        bounds = higher


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
    task = _task(header, machine, options)
    bounds = bounds_of(task.graphs)
    choice, buffers, found = _best(task, bounds)
    if 0 < found.shortage <= sum(_assumed(task, choice, bounds)):  # it may be that too much was assumed
        closer = _best(task, bounds.replaced(_assumed(task, choice, bounds), buffers.together))[2]
        found = min(found, closer, key=lambda outcome: outcome.shortage)
    return found


def _shortage(plan: Plan, machine: Machine) -> int:
    shared = {gpu.name for gpu in machine.gpus if gpu.shared}
    host = sum(usage.used for usage in plan.usage if usage.device == HOST or usage.device in shared)
    others = (usage for usage in plan.usage if usage.device != HOST)
    return max(0, host - machine.ram) + sum(max(0, usage.used - usage.capacity) for usage in others)


def _finish(task: _Task, choice: Choice, buffers: Buffers) -> Plan:
    """Add up what each device has."""
    header, machine, units, needed = task.header, task.machine, task.units, task.needed
    start = task.last + 1 - choice.n_gpu_layers
    ends = list(itertools.accumulate(choice.counts, initial=start))
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
    add(HOST, "embedding", task.embedding)
    for unit in units:
        device = HOST if unit in choice.gone else names[0] if unit in choice.added else home(unit)
        placements.append(Placement(unit.layer, unit.kind, device))
        shown = unit.weights - task.embedding if unit.kind == "output" and tied and device == HOST else unit.weights
        add(device, unit.kind, shown)
        add(home(unit), "recurrent states" if unit.kind == "DeltaNet" else "KV cache", unit.state)
        moved[device] += unit.moved
    used = {placement.device for placement in placements}
    for name, trunk, head in zip([*names, HOST], buffers.trunk, buffers.mtp, strict=True):
        if name == HOST or name in used:
            add(name, "compute", trunk)
            add(name, "MTP compute", head)
    for gpu in machine.gpus:
        if gpu.name in used:
            add(gpu.name, "reserve", reserve_of(gpu))
    add(HOST, "logits", needed.outputs + needed.mtp_outputs)
    add(HOST, "prefix cache", needed.checkpoints)
    add(HOST, "vision", needed.vision_weights + needed.vision_compute)
    add(HOST, "vocabulary", needed.bookkeeping)
    capacity = {HOST: machine.ram} | {gpu.name: gpu.free for gpu in machine.gpus}
    speed = {HOST: 1.0} | {gpu.name: 1.0 if gpu.kind == RPC_DEVICE else GPU_SPEED for gpu in machine.gpus}
    remote = {gpu.name for gpu in machine.gpus if gpu.kind == RPC_DEVICE}
    order = [HOST, *(place.device for place in placements), HOST]
    return Plan(
        model=header.path.name,
        n_ctx=task.n_ctx,
        kv_type=task.kv_type,
        usage=tuple(Usage(name, capacity[name], parts[name], moved[name], speed[name]) for name in parts),
        placements=tuple(placements),
        n_gpu_layers=choice.n_gpu_layers,
        tensor_split=choice.counts,
        overrides=tuple(
            itertools.chain(
                overrides_of([unit for unit in units if unit in choice.gone], HOST),
                overrides_of([unit for unit in units if unit in choice.added], names[0] if names else HOST),
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
            f"{format_size(machine.ram)} of RAM",
            *(f"{format_size(gpu.free)} of {gpu.name}" for gpu in machine.gpus),
        ]
    )
    what = f"n_ctx {n_ctx:,} needs {format_size(host.used)} of RAM with the GPUs filled"
    if not machine.gpus:
        what = f"n_ctx {n_ctx:,} needs {format_size(host.used)} of RAM"
    raise MemoryLimitError(f"{plan.model}: {what}, {format_size(shortage)} more than there is ({there}); {advice}")


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON has it."""
    return dataclasses.asdict(plan)
