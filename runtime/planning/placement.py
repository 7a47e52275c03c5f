"""Where to put a model on a machine with several devices, from its header alone.

llama.cpp places whole layers, counted from the end (`n_gpu_layers`): their weights, and their KV cache or recurrent
state. Single tensors can be moved from there (`override_tensor`), which is done here for the feed-forward networks. The
embedding stays on the CPU: one row of it is read.

A token is as fast as the bytes that are read for it. Hence the value of a unit is the number of its bytes that a token
reads for each byte that it takes: 1 for most weights, 1/32 for experts of which 8 of 256 are used, more than 1 for what
drafting uses as well (the output, the MTP block) and for recurrent states, which are read and written, and 1/2 for a
KV cache that is half full. Every way in which llama.cpp can fill the devices is tried, the units of least value going
to the CPU first, and the one that costs the least is taken; passing from one device to the next has a price, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from qwen35_gguf.errors import DeviceError, MemoryLimitError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.runtime.context_spec import MemoryRequest
from qwen35_gguf.runtime.llama.devices import RPC_DEVICE
from qwen35_gguf.runtime.planning.compute_buffers import (
    CELLS,
    Call,
    ComputeBuffers,
    Share,
    Split,
    compute_buffers,
)
from qwen35_gguf.runtime.planning.device_reserve import reserve_of
from qwen35_gguf.runtime.planning.fitting import most_steps, what_fits, with_n_ctx
from qwen35_gguf.runtime.planning.memory import (
    LONGEST_CONTEXT,
    Estimate,
    architecture_of,
    draft_vocab_size,
    estimate,
    has_mtp,
    patched_runtime,
)
from qwen35_gguf.runtime.planning.placement_units import Unit, Units, overrides_of, units_of
from qwen35_gguf.runtime.planning.plan import CPU, Machine, Placement, Plan, Usage
from qwen35_gguf.runtime.planning.yarn import yarn_for
from qwen35_gguf.units import format_size

GPU_SPEED = 8  # times as fast as the CPU reads memory; only the order of plans depends on it


Measure = Callable[[Plan], ComputeBuffers | None]  # what llama.cpp itself plans; None if it cannot be asked


# ---- placing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """What goes where.

    Attributes:
        n_gpu_layers: layers on devices.
        counts: number of layers on each device.
        to_cpu: units of these layers that are on the CPU all the same.
        to_first: units of the other layers that are on the first device.

    """

    n_gpu_layers: int
    counts: tuple[int, ...]
    to_cpu: frozenset[Unit] = frozenset()
    to_first: frozenset[Unit] = frozenset()


@dataclass(frozen=True)
class _Task:
    """What is known before anything is placed."""

    header: GgufHeader
    machine: Machine
    request: MemoryRequest
    on_cpu: Estimate
    model: Units
    buffers: Callable[[Split], ComputeBuffers]

    @property
    def last(self) -> int:
        """Number of the output's layer."""
        return self.model.units[-1].layer

    @property
    def names(self) -> list[str]:
        """Names of the devices other than the CPU."""
        return [device.name for device in self.machine.devices]

    def device_of(self, unit: Unit, choice: _Choice) -> int:
        """Return the number of the device that a unit's layer is on; the CPU is the last."""
        start = self.last + 1 - choice.n_gpu_layers
        if unit.layer < start:
            return len(choice.counts)
        ends = itertools.accumulate(choice.counts, initial=start)
        return next(i for i, end in enumerate(itertools.islice(ends, 1, None)) if unit.layer < end)

    def placed(self, choice: _Choice) -> list[int]:
        """Return the number of each unit's device."""
        cpu = len(choice.counts)
        return [
            cpu if unit in choice.to_cpu else 0 if unit in choice.to_first else self.device_of(unit, choice)
            for unit in self.model.units
        ]

    def split(self, placed: Sequence[int]) -> Split:
        """Describe which device computes what."""
        kinds: list[dict[str, bool]] = [{} for _ in range(len(self.machine.devices) + 1)]
        fields = {"DeltaNet": "delta_net", "attention": "attention", "MTP": "mtp", "output": "output"}
        blocks = [unit.layer for unit in self.model.units if unit.kind == "MTP"]
        for unit, device in zip(self.model.units, placed, strict=True):
            network = "mtp_feed_forward" if unit.layer in blocks else "feed_forward"
            kinds[device][fields.get(unit.kind, network)] = True
        shares = [
            Share(**found, gpu=device.kind != RPC_DEVICE)
            for found, device in zip(kinds[:-1], self.machine.devices, strict=True)
        ]
        whole = len(kinds) - 1 not in placed and len(set(placed)) > 1
        layers = {(unit.layer, device) for unit, device in zip(self.model.units, placed, strict=True)}
        return Split(
            cpu=Share(**kinds[-1]),
            devices=tuple(shares),
            pipelined=whole and len(layers) == len({layer for layer, _ in layers}),
            cpu_weights=self.model.largest_weights,
            cpu_experts=self.model.largest_experts,
            output_weights=self.model.output_weights,
        )

    def assumed(self, on_cpu: bool, to_cpu: bool) -> tuple[int, ...]:
        """Bound the buffers of each device before it is known what it gets: it computes everything."""
        whole = Share(True, True, True, True, True, True)
        shares = tuple(replace(whole, gpu=device.kind != RPC_DEVICE) for device in self.machine.devices)
        cpu = whole if on_cpu else Share(feed_forward=to_cpu, mtp_feed_forward=to_cpu)
        pipelined = not (on_cpu or to_cpu) and len(shares) > 1
        sizes = {"cpu_weights": self.model.largest_weights, "cpu_experts": self.model.largest_experts}
        split = Split(cpu, shares, pipelined, **sizes)
        return self.buffers(split).total


def _task(header: GgufHeader, machine: Machine, request: MemoryRequest) -> _Task:
    request = replace(request, mtp=request.mtp and has_mtp(header))
    needed, patched = estimate(header, request), patched_runtime()
    model, call, draft = (
        architecture_of(header),
        Call.largest(request.context),
        draft_vocab_size(header, patched=patched),
    )
    known: dict[Split, ComputeBuffers] = {}

    def buffers(split: Split) -> ComputeBuffers:
        if split not in known:
            known[split] = compute_buffers(model, call, split, mtp=request.mtp, patched=patched, draft_vocab_size=draft)
        return known[split]

    return _Task(header, machine, request, needed, units_of(header, request), buffers)


def _fill(layers: Sequence[int], capacity: Sequence[int]) -> tuple[int, ...] | None:
    """Put layers of these sizes on devices in their order; return the number on each, None if they do not all fit."""
    counts, device, left = [0] * len(capacity), 0, capacity[0]
    for size in layers:
        while size > left:
            device += 1
            if device == len(capacity):
                return None
            left = capacity[device]
        counts[device], left = counts[device] + 1, left - size
    return tuple(counts)


def _choices(task: _Task) -> Iterator[_Choice]:
    """Yield what to try: at first nothing on devices, then every number of layers.

    What does not fit goes to the CPU, the least valuable first, as little as possible. The buffers of a device are
    bounded at first; then those are tried that it has with what it got.
    """
    devices = task.machine.devices
    yield _Choice(0, (0,) * len(devices))
    starts = {unit.layer for unit in task.model.units}  # an MTP block that is not loaded is not worth a layer
    for n_gpu_layers in range(1, task.last + 2) if devices else ():
        if task.last + 1 - n_gpu_layers not in starts:
            continue
        first = _filled(task, n_gpu_layers, task.assumed)
        if first is not None:
            yield first
        guess = first or _Choice(n_gpu_layers, (n_gpu_layers, *[0] * (len(devices) - 1)))
        found = task.buffers(task.split(task.placed(guess))).total
        closer = _filled(task, n_gpu_layers, lambda *_, found=found: found)
        if closer is not None and closer != first:
            yield closer


def _filled(task: _Task, n_gpu_layers: int, buffers: Callable[[bool, bool], tuple[int, ...]]) -> _Choice | None:
    """Put the last layers on devices; None if they do not fit whatever goes to the CPU."""
    devices, last, units = task.machine.devices, task.last, task.model.units
    start = last + 1 - n_gpu_layers
    there = [unit for unit in units if unit.layer >= start]
    movable = sorted((unit for unit in there if unit.movable), key=lambda unit: unit.bytes_per_token / unit.weights)

    def capacity(to_cpu: int) -> list[int]:
        sizes = buffers(start > 0, to_cpu > 0)
        spare = [device.free - reserve_of(device, experts=bool(task.model.largest_experts)) for device in devices]
        return [free - size for free, size in zip(spare, sizes, strict=False)]

    def counts_without(count: int) -> tuple[int, ...] | None:
        sizes = [0] * (last + 1 - start)  # an MTP block that is not loaded counts as a layer
        for unit in there:
            sizes[unit.layer - start] += unit.weights + unit.state
        for unit in movable[:count]:
            sizes[unit.layer - start] -= unit.weights
        return _fill(sizes, capacity(count))

    moved = most_steps(lambda steps: counts_without(len(movable) - steps) is not None, len(movable))
    counts = counts_without(gone := len(movable) - moved)
    if counts is None:
        return None
    added: set[Unit] = set()
    if not gone and counts[0]:
        kept = sum(unit.weights + unit.state for unit in there if unit.layer < start + counts[0])
        left = capacity(0)[0] - kept
        for unit in reversed([unit for unit in units if unit.layer < start and unit.movable]):
            if unit.weights <= left:
                added.add(unit)
                left -= unit.weights
    return _Choice(n_gpu_layers, counts, frozenset(movable[:gone]), frozenset(added))


def place(header: GgufHeader, machine: Machine, request: MemoryRequest) -> tuple[Plan, int]:
    """Find the plan that reads the fewest bytes per token, and by how many bytes it does not fit (0 if it does).

    Args:
        header: of the text model.
        machine: what is available.
        request: what must fit; the vision encoder and cached states stay on the CPU.

    Raises:
        ContextError: a number is out of range.
        ModelError: not a text model of this family.

    """
    task = _task(header, machine, request)
    found = ((plan, sum(plan.shortages(machine))) for plan in (_plan(task, choice) for choice in _choices(task)))
    return min(found, key=lambda pair: (pair[1], pair[0].cost))


def _plan(task: _Task, choice: _Choice) -> Plan:
    """Add up what each device stores."""
    machine, units, needed = task.machine, task.model.units, task.on_cpu
    placed = task.placed(choice)
    names = [*task.names, CPU]
    parts: dict[str, dict[str, int]] = {name: {} for name in [CPU, *task.names]}
    moved = dict.fromkeys(parts, 0)

    def add(device: str, part: str, n_bytes: int) -> None:
        if n_bytes:
            parts[device][part] = parts[device].get(part, 0) + n_bytes

    add(CPU, "embedding", task.model.embedding)
    for unit, number in zip(units, placed, strict=True):
        name, is_embedding = names[number], unit.kind == "output" and task.model.tied and names[number] == CPU
        add(name, unit.kind, unit.weights - task.model.embedding if is_embedding else unit.weights)
        cache = "recurrent states" if unit.kind == "DeltaNet" else "KV cache"
        add(names[task.device_of(unit, choice)], cache, unit.state)
        moved[name] += unit.bytes_per_token
    buffers = task.buffers(task.split(placed))
    for name, main, mtp in zip(names, buffers.main, buffers.mtp, strict=True):
        add(name, "compute", main)
        add(name, "MTP compute", mtp)
    for number, device in enumerate(machine.devices):
        if number in placed:
            add(device.name, "reserve", reserve_of(device, experts=bool(task.model.largest_experts)))
    add(CPU, "logits", needed.outputs + needed.mtp_outputs)
    add(CPU, "MTP rows", needed.mtp_rows)
    add(CPU, "prefix cache", needed.cached_states)
    add(CPU, "vision", needed.vision_weights + needed.vision_compute)
    add(CPU, "vocabulary", needed.bookkeeping)
    capacity = {CPU: machine.ram} | {device.name: device.free for device in machine.devices}
    remote = {device.name for device in machine.devices if device.kind == RPC_DEVICE}
    speed = {name: 1.0 if name == CPU or name in remote else float(GPU_SPEED) for name in parts}
    passed = list(itertools.pairwise([CPU, *(names[number] for number in placed), CPU]))
    to_cpu = overrides_of([unit for unit in units if unit in choice.to_cpu], CPU)
    to_first = overrides_of([unit for unit in units if unit in choice.to_first], names[0])
    return Plan(
        model=task.header.path.name,
        n_ctx=task.request.context.n_ctx,
        kv_type=task.request.context.kv_type,
        usage=tuple(Usage(name, capacity[name], parts[name], moved[name], speed[name]) for name in parts),
        placements=tuple(Placement(unit.layer, unit.kind, names[i]) for unit, i in zip(units, placed, strict=True)),
        n_gpu_layers=choice.n_gpu_layers,
        tensor_split=choice.counts,
        overrides=(*to_cpu, *to_first),
        crossings=sum(one != other for one, other in passed),
        messages=sum(one != other and bool(remote & {one, other}) for one, other in passed),
    )


# ---- what fits ---------------------------------------------------------------------------------------------------


def largest_context(
    header: GgufHeader,
    machine: Machine,
    request: MemoryRequest,
    *,
    limit: int = LONGEST_CONTEXT,
    on_devices: bool = False,
    measure: Measure | None = None,
) -> int:
    """Find the largest context, a multiple of 256 cells, that fits; 0 for none.

    Args:
        header: of the text model.
        machine: what is available.
        request: what must fit; its `n_ctx` is ignored.
        limit: cells at most.
        on_devices: only with every layer on a device other than the CPU.
        measure: asked once, for the plan of the length that the formula gives; what it finds corrects that length.

    """
    found = _largest_context(header, machine, request, limit, on_devices=on_devices)
    if not found or measure is None:
        return found
    plan, _ = place(header, machine, with_n_ctx(request, found))
    exact = plan.with_buffers(measure(plan))
    more = tuple(ours.used - theirs.used for ours, theirs in zip(plan.usage, exact.usage, strict=True))
    return _largest_context(header, machine.with_more(more), request, limit, on_devices=on_devices)


def _largest_context(
    header: GgufHeader, machine: Machine, request: MemoryRequest, limit: int, *, on_devices: bool
) -> int:

    def fits(steps: int) -> bool:
        plan, shortage = place(header, machine, with_n_ctx(request, steps * CELLS))
        whole = not on_devices or all(placement.device != CPU for placement in plan.placements)
        return shortage == 0 and whole

    return most_steps(fits, max(1, limit // CELLS)) * CELLS


def _verified(
    header: GgufHeader, machine: Machine, request: MemoryRequest, plan: Plan, measure: Measure
) -> tuple[Plan, int]:
    """Return a plan with the buffers that llama.cpp plans, another one if the first does not fit with them."""
    plan = plan.with_buffers(measure(plan))
    shortages = plan.shortages(machine)
    if not any(shortages):
        return plan, 0
    other, shortage = place(header, machine.with_more(tuple(-size for size in shortages)), request)
    if shortage == 0:
        other = other.with_buffers(measure(other))
        if not any(other.shortages(machine)):
            return other, 0
    return plan, sum(shortages)


def plan_placement(
    header: GgufHeader, machine: Machine, request: MemoryRequest, measure: Measure | None = None
) -> Plan:
    """Find the best plan that fits.

    Args:
        header: of the text model.
        machine: what is available.
        request: what must fit.
        measure: returns the compute buffers that llama.cpp itself plans for a plan; None: the formula's figures stay.

    Raises:
        DeviceError: a device has no memory.
        MemoryLimitError: none fits; the message names what is missing, how much of it, and what would fit.
        ContextError: a number is out of range.
        ModelError: not a text model of this family.

    """
    if machine.ram <= 0 or any(device.free <= 0 for device in machine.devices):
        raise DeviceError("machine: a device has no memory; give sizes above 0")
    yarn_for(header, request.context.n_ctx)
    plan, shortage = place(header, machine, request)
    if shortage == 0 and measure is not None:
        plan, shortage = _verified(header, machine, request, plan, measure)
    if shortage == 0:
        return plan

    def longest(file: GgufHeader, changed: MemoryRequest, limit: int) -> int:
        return largest_context(file, machine, changed, limit=limit)

    advice = " or ".join(what_fits(header, request, longest))
    n_ctx, used = request.context.n_ctx, format_size(plan.usage[0].used)
    sizes = [f"{format_size(device.free)} of {device.name}" for device in machine.devices]
    what = f"n_ctx {n_ctx:,} needs {used} of RAM{' with the other devices filled' if sizes else ''}"
    available = " + ".join([f"{format_size(machine.ram)} of RAM", *sizes])
    raise MemoryLimitError(f"{plan.model}: {what}, {format_size(shortage)} more than there is ({available}); {advice}")
