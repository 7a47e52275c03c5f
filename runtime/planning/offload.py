"""Which layers and tensors go to which devices, as llama.cpp is called with it.

Source: llama.cpp include/llama.h (llama_model_params).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from qwen35_gguf.errors import DeviceError, Qwen35Error
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.runtime.context_spec import MemoryRequest
from qwen35_gguf.runtime.llama.devices import CPU, Device, Layers, Offload, choose_devices, find_devices
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.llama.memory_breakdown import PlannedModel
from qwen35_gguf.runtime.llama.rpc import connect
from qwen35_gguf.runtime.planning.compute_buffers import ComputeBuffers
from qwen35_gguf.runtime.planning.device_reserve import reserve_of
from qwen35_gguf.runtime.planning.fitting import planned_buffers, planned_model, vision_bytes_of_gpu
from qwen35_gguf.runtime.planning.memory import architecture_of
from qwen35_gguf.runtime.planning.placement import Measure, plan_placement
from qwen35_gguf.runtime.planning.plan import Machine, Plan
from qwen35_gguf.runtime.settings import Settings

log = logging.getLogger(__name__)

ALL = -1


def find(names: Sequence[str] = (), endpoints: Sequence[str] = ()) -> list[Device]:
    """Find the GPUs of this machine, or the devices of these names, and the devices of RPC servers.

    Raises:
        DeviceError: a device is not there.
        RpcServerError: an RPC server does not answer.
        MissingDependencyError: RPC servers are named, and llama-cpp-python is not installed or has no RPC.

    """
    if installed_runtime() is None:
        return []
    remote = connect(endpoints)
    local = find_devices()
    if not names:
        return [*choose_devices(local, ()), *remote]
    named = choose_devices([*local, *remote], tuple(names))
    return named + [device for device in remote if device not in named and not _named_among(names, remote)]


def _named_among(names: Sequence[str], remote: Sequence[Device]) -> bool:
    return any(device.name.lower() == name.lower() for name in names for device in remote)


def most_layers(header: GgufHeader) -> int:
    """Count the layers that can be on devices: with the output and the MTP block."""
    return architecture_of(header).blocks + 1


def of_plan(plan: Plan, devices: Sequence[Device]) -> Offload:
    """Return what llama.cpp is called with for a plan; devices without a layer are left out."""
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
    """Write all layers in one way, so that equal placements compare equal."""
    return ALL if layers == most else layers


@contextmanager
def measuring(header: GgufHeader, request: MemoryRequest, devices: Sequence[Device]) -> Iterator[Measure]:
    """Give a function that asks llama.cpp for the compute buffers of a plan on real devices.

    It returns None where no llama.cpp is installed, or it refuses.
    """
    with ExitStack() as stack:
        loaded: dict[Offload, PlannedModel] = {}

        def measure(plan: Plan) -> ComputeBuffers | None:
            offload = of_plan(plan, devices)
            try:
                if offload not in loaded:
                    loaded[offload] = stack.enter_context(planned_model(header, request, offload))
                found = planned_buffers(loaded[offload], replace(request.context, n_ctx=plan.n_ctx), offload)
            except Qwen35Error as error:
                log.info("%s: compute buffers are those of the formula (%s)", plan.model, error)
                return None
            places = {device.name: i for i, device in enumerate(offload.devices)}
            order = [places.get(device.name) for device in devices]
            main, mtp = (
                (*(0 if i is None else sizes[i] for i in order), sizes[-1]) for sizes in (found.main, found.mtp)
            )
            return ComputeBuffers(main, mtp)

        yield measure


def choose(
    header: GgufHeader,
    layers: Layers,
    devices: Sequence[Device],
    request: MemoryRequest,
    *,
    ram: int,
    split: Sequence[int] = (),
) -> Offload:
    """Decide what goes where: as many layers as given, or what a plan finds best.

    Args:
        header: of the text model.
        layers: a count, -1 for all, or "auto".
        devices: that may get some.
        request: what must fit.
        ram: bytes of RAM that may be used.
        split: shares of the layers that these devices get, 0 for none; empty: as planned, or in proportion to memory.

    Raises:
        DeviceError: layers for devices, and there are none; or not as many shares as devices.
        MemoryLimitError: no plan fits.

    """
    if split and len(split) != len(devices):
        raise DeviceError(f"{len(split)} shares for {len(devices)} devices: give one for each")
    chosen = [device for device, share in zip(devices, split, strict=True) if share] if split else list(devices)
    shares = tuple(float(share) for share in split if share) if len(chosen) > 1 else ()
    if layers == "auto":
        if not chosen:
            return Offload()
        planned = of_plan(_planned(header, Machine(ram, tuple(chosen)), request), chosen)
        return replace(planned, devices=tuple(chosen), tensor_split=shares) if planned.devices and shares else planned
    if layers == 0:
        return Offload()
    if not chosen:
        raise DeviceError("layers on a GPU: this llama.cpp finds none; use 0, or name RPC servers")
    most = most_layers(header)
    if layers > most:
        raise DeviceError(f"{layers} layers on a GPU: {header.path.name} has {most} with the output; use -1 for all")
    return Offload(tuple(chosen), _all_as_one(layers, most), shares)


def _planned(header: GgufHeader, machine: Machine, request: MemoryRequest) -> Plan:
    """Return a plan; on GPUs llama.cpp is asked, since the formula is only near what large calls need there."""
    if not any(device.kind == "gpu" and device.pointer for device in machine.devices):
        return plan_placement(header, machine, request)
    with measuring(header, request, machine.devices) as measure:
        return plan_placement(header, machine, request, measure)


def of_settings(
    header: GgufHeader, settings: Settings, devices: Sequence[Device], request: MemoryRequest, *, ram: int
) -> Offload:
    """Decide what goes where by settings; arguments and errors are those of `choose`."""
    placed = choose(header, settings.gpu_layers, devices, request, ram=ram, split=settings.split)
    if settings.gpu_layers == "auto":
        return placed
    return with_feed_forward_on_cpu(placed, header, settings.host_feed_forward)


def with_feed_forward_on_cpu(offload: Offload, header: GgufHeader, count: int) -> Offload:
    """Move the feed-forward networks of the first `count` of the layers on devices back to the CPU."""
    last = architecture_of(header).blocks
    start = 0 if offload.n_gpu_layers < 0 else last + 1 - offload.n_gpu_layers
    layers = "|".join(str(layer) for layer in range(start, min(start + count, last)))
    if not layers or not offload.n_gpu_layers:
        return offload
    moved = (rf"^blk\.({layers})\.ffn_(gate|up|down)(_exps)?\.", CPU)
    return replace(offload, overrides=(*offload.overrides, moved))


def takes_vision(offload: Offload, mmproj: GgufHeader, image_pixels: int) -> bool:
    """Report whether the vision encoder fits on a GPU that has layers, beside these and the reserve of a plan.

    mtmd takes the first GPU that ggml knows (tools/mtmd/clip.cpp): no other counts.
    """
    gpus = [device for device in find_devices() if device.kind == "gpu"]
    used = [device.name for device in offload.devices if not device.endpoint]
    if not gpus or gpus[0].name not in used:
        return False
    return vision_bytes_of_gpu(mmproj, image_pixels) + reserve_of(gpus[0]) <= gpus[0].free
