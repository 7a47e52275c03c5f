"""Which layers and tensors go to which devices, as llama.cpp is told.

Source: llama.cpp include/llama.h (llama_model_params) and src/llama-model.cpp (load_tensors: how `tensor_split` deals
out the layers, and how patterns of `tensor_buft_overrides` are matched: the first that is found in the name counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from qwen35_gguf.errors import DeviceError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.runtime.llama.devices import Device, Offload, choose_devices, find_devices
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.llama.rpc import connect
from qwen35_gguf.runtime.planning import memory
from qwen35_gguf.runtime.planning.placement import HOST, Machine, Plan, make_plan
from qwen35_gguf.runtime.settings import Settings

Layers = int | Literal["auto"]
ALL = -1


def find(names: Sequence[str] = (), workers: Sequence[str] = ()) -> list[Device]:
    """Find this machine's GPUs, or those of these names, and the devices of workers.

    Raises:
        DeviceError: one is not there.
        RpcServerError: a worker does not answer.
        MissingDependencyError: workers are named, and llama-cpp-python is not installed or has no RPC.

    """
    if installed_runtime() is None:
        return []
    remote = connect(workers)
    local = find_devices()
    if not names:
        return [*choose_devices(local, ()), *remote]
    named = choose_devices([*local, *remote], tuple(names))
    return named + [device for device in remote if device not in named and not _names_a_worker(names, remote)]


def _names_a_worker(names: Sequence[str], remote: Sequence[Device]) -> bool:
    return any(device.name.lower() == name.lower() for name in names for device in remote)


def most_layers(header: GgufHeader) -> int:
    """Count the layers that may be on devices: with the output and the MTP block."""
    return memory.trunk_layers(header) + 1 + memory.has_mtp(header)


def of_plan(plan: Plan, devices: Sequence[Device]) -> Offload:
    """Tell llama.cpp what a plan says; devices without a layer are left out."""
    if not plan.n_gpu_layers:
        return Offload()
    used = {name for _, name in plan.overrides}
    kept = [
        (device, count)
        for device, count in zip(devices, plan.tensor_split, strict=True)
        if count or device.name in used
    ]
    split = tuple(float(count) for _, count in kept) if len(kept) > 1 else ()
    most = plan.placements[-1].layer + 1
    return Offload(tuple(device for device, _ in kept), _all_as_one(plan.n_gpu_layers, most), split, plan.overrides)


def _all_as_one(layers: int, most: int) -> int:
    """Write all layers in one way, so that what places alike is equal."""
    return ALL if layers == most else layers


def choose(
    header: GgufHeader,
    layers: Layers,
    devices: Sequence[Device],
    *,
    ram: int,
    split: Sequence[int] = (),
    **options: Any,
) -> Offload:
    """Decide what goes where: as many layers as told, or what a plan finds best.

    Args:
        header: of the text model.
        layers: a count, -1 for all, or "auto".
        devices: that may get some.
        ram: bytes of the host that may be used.
        split: shares of the layers that these devices get, 0 for none; empty: as planned, or in proportion to memory.
        options: those of `plan.place`.

    Raises:
        DeviceError: layers for devices, and there are none; or as many shares are not as devices.
        MemoryLimitError: no plan fits.

    """
    if split and len(split) != len(devices):
        raise DeviceError(f"{len(split)} shares for {len(devices)} devices: give one for each")
    taken = [device for device, share in zip(devices, split, strict=True) if share] if split else list(devices)
    shares = tuple(float(share) for share in split if share) if len(taken) > 1 else ()
    if layers == "auto":
        if not taken:
            return Offload()
        planned = of_plan(make_plan(header, Machine(ram, tuple(taken)), **options), taken)
        return replace(planned, devices=tuple(taken), tensor_split=shares) if planned.devices and shares else planned
    if layers == 0:
        return Offload()
    if not taken:
        raise DeviceError("layers on a GPU: this llama.cpp finds none; use 0, or name workers")
    most = most_layers(header)
    if layers > most:
        raise DeviceError(f"{layers} layers on a GPU: {header.path.name} has {most} with the output; use -1 for all")
    return Offload(tuple(taken), _all_as_one(layers, most), shares)


def of_settings(
    header: GgufHeader, settings: Settings, devices: Sequence[Device], *, ram: int, **options: Any
) -> Offload:
    """Decide what goes where as settings say; arguments and errors are those of `choose`."""
    placed = choose(header, settings.gpu_layers, devices, ram=ram, split=settings.split, **options)
    if settings.gpu_layers == "auto":
        return placed
    return with_host_feed_forward(placed, header, settings.host_feed_forward)


def with_host_feed_forward(offload: Offload, header: GgufHeader, count: int) -> Offload:
    """Move the feed-forward parts of the first `count` of the layers on devices back to the host."""
    last = int(header.require_hparam("block_count"))
    start = 0 if offload.n_gpu_layers < 0 else last + 1 - offload.n_gpu_layers
    layers = "|".join(str(layer) for layer in range(start, min(start + count, last)))
    if not layers or not offload.n_gpu_layers:
        return offload
    moved = (rf"^blk\.({layers})\.ffn_(gate|up|down)(_exps)?\.", HOST)
    return replace(offload, overrides=(*offload.overrides, moved))
