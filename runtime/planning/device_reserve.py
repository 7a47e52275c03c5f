"""What of a GPU's memory stays free: the driver's context, and what is allocated while it computes.

Both are in none of llama.cpp's buffers. They were measured with nvidia-smi on an H100 (docs/offload.md).
"""

from __future__ import annotations

from dataclasses import replace

from qwen35_gguf.runtime.llama.devices import RPC_DEVICE, Device

DRIVER_CONTEXT = 576 << 20  # of each process on a GPU; 527 MiB on an H100
WORK = 160 << 20  # outside of llama.cpp's buffers, while it computes; 80 to 90 MiB on an H100
EXPERTS_WORK = 224 << 20  # and with experts; 190 to 210 MiB on an H100 (256 of them, 8 used)


def reserve_of(device: Device, *, experts: bool = False) -> int:
    """Return the bytes of a device that stay free; an RPC server's are those of a processor, or it has a reserve.

    What is free on a device that was found (it has a `pointer`) was asked with the driver's context in place.
    """
    if device.kind == RPC_DEVICE:
        return 0
    work = WORK + EXPERTS_WORK if experts else WORK
    return work if device.pointer else DRIVER_CONTEXT + work


def in_another_process(device: Device) -> Device:
    """Return a device as a process finds it that is started while this one keeps its own context of the driver."""
    if device.kind == RPC_DEVICE or not device.pointer:
        return device
    return replace(device, free=max(0, device.free - DRIVER_CONTEXT))
