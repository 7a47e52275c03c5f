"""A plan: which parts of a model are stored on which device, and what that takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

from qwen35_gguf.runtime.llama.devices import Device
from qwen35_gguf.runtime.planning.compute_buffers import ComputeBuffers

CPU = "CPU"
WEIGHTS = ("embedding", "DeltaNet", "attention", "feed-forward", "experts", "MTP", "output")
CROSSING = 1 << 20  # bytes that the CPU reads in the time that passing to another device takes
MESSAGE = 16 << 20  # and to another machine, about a millisecond


@dataclass(frozen=True)
class Machine:
    """Memory that may be used: bytes of RAM, and devices with memory of their own."""

    ram: int
    devices: tuple[Device, ...] = ()

    def with_more(self, more: tuple[int, ...]) -> Machine:
        """Return a machine with more bytes of RAM, and on each device; negative numbers are less."""
        devices = zip(self.devices, more[1:], strict=True)
        return Machine(self.ram + more[0], tuple(replace(device, free=device.free + size) for device, size in devices))


@dataclass(frozen=True)
class Usage:
    """What is stored on a device.

    Attributes:
        device: its name.
        capacity: bytes.
        parts: bytes by part.
        bytes_per_token: bytes that are read or written for a token.
        speed: how fast it reads memory, next to the CPU.

    """

    device: str
    capacity: int
    parts: dict[str, int]
    bytes_per_token: int
    speed: float = 1

    @property
    def used(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())

    @property
    def weights(self) -> int:
        """The weights of the text model; on the CPU they are pages of the file, if they are not repacked."""
        return sum(self.parts.get(part, 0) for part in WEIGHTS)


@dataclass(frozen=True)
class Placement:
    """Where a unit is stored."""

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
        usage: of the CPU, then of each device.
        placements: of each unit, in the order of computation.
        n_gpu_layers: for llama.cpp; with the output and the MTP block, whether or not that is loaded.
        tensor_split: number of these layers on each device.
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
        """How long a token takes, in bytes that the CPU reads in that time."""
        read = sum(usage.bytes_per_token / usage.speed for usage in self.usage)
        return int(read) + self.crossings * CROSSING + self.messages * MESSAGE

    def with_buffers(self, buffers: ComputeBuffers | None) -> Plan:
        """Return the plan with other compute buffers, such as those that llama.cpp reports; itself for None."""
        if buffers is None:
            return self
        sizes = zip(buffers.main[-1:] + buffers.main[:-1], buffers.mtp[-1:] + buffers.mtp[:-1], strict=True)
        usage = []
        for used, (main, mtp) in zip(self.usage, sizes, strict=True):
            parts = {"compute": main, "MTP compute": mtp}
            kept = {name: size for name, size in used.parts.items() if name not in parts}
            usage.append(replace(used, parts=kept | {name: size for name, size in parts.items() if size}))
        return replace(self, usage=tuple(usage))

    def shortages(self, machine: Machine) -> tuple[int, ...]:
        """Return by how many bytes the CPU and each device are too small, 0 where all fits."""
        shared = {device.name for device in machine.devices if device.shared}
        ram = sum(usage.used for usage in self.usage if usage.device == CPU or usage.device in shared)
        others = (max(0, usage.used - usage.capacity) for usage in self.usage[1:])
        return (max(0, ram - machine.ram), *others)


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON has it."""
    return dataclasses.asdict(plan)
