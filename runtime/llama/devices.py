"""The devices that the installed llama.cpp finds, their memory, and what of a model is stored on them."""

from __future__ import annotations

import ctypes
import ipaddress
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from qwen35_gguf.errors import DeviceError
from qwen35_gguf.runtime.llama.library import ggml_library

Layers = int | Literal["auto"]

CPU = "CPU"  # the name of the CPU's device and its buffers
RPC_DEVICE = "rpc"
KINDS = ("cpu", "gpu", "integrated gpu", "accelerator")  # of ggml_backend_dev_type


@dataclass(frozen=True)
class Device:
    """A device of ggml.

    Attributes:
        name: as llama.cpp names it and its buffers: CUDA0, Vulkan0, RPC0, ...
        free: bytes.
        kind: one of `KINDS`, or `RPC_DEVICE`.
        shared: it uses the CPU's memory.
        pointer: ggml's handle (`ggml_backend_dev_t`); 0 for a device that is only planned with.
        endpoint: host:port of an RPC server.
        total: bytes.
        description: the name of the hardware.

    """

    name: str
    free: int
    kind: str = "gpu"
    shared: bool = False
    pointer: int = field(default=0, compare=False)
    endpoint: str = ""
    total: int = field(default=0, compare=False)
    description: str = field(default="", compare=False)


@dataclass(frozen=True)
class Offload:
    """What is stored on devices other than the CPU.

    Attributes:
        devices: that get layers, in this order.
        n_gpu_layers: layers on them, counted from the end, the output and the MTP block among them; -1 for all.
        tensor_split: layers of each device, or shares of them; empty: in proportion to free memory.
        overrides: pairs of a pattern for names of tensors and the name of the device that they are stored on.

    """

    devices: tuple[Device, ...] = ()
    n_gpu_layers: int = 0
    tensor_split: tuple[float, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The RPC servers among the devices."""
        return tuple(dict.fromkeys(device.endpoint for device in self.devices if device.endpoint))

    def __str__(self) -> str:
        if not self.devices or not self.n_gpu_layers:
            return "all layers on the CPU"
        names = ", ".join(f"{d.name} ({d.endpoint})" if d.endpoint else d.name for d in self.devices)
        count = "all layers" if self.n_gpu_layers < 0 else f"{self.n_gpu_layers} layers"
        shares = f" ({':'.join(f'{share:g}' for share in self.tensor_split)})" if self.tensor_split else ""
        overrides = f", {len(self.overrides)} overrides" if self.overrides else ""
        return f"{count} on {names}{shares}{overrides}"


def find_devices() -> list[Device]:
    """Ask ggml for its devices, the CPU included; none where llama-cpp-python or its libraries are missing."""
    ggml = ggml_library()
    if ggml is None:
        return []
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    count = ggml.ggml_backend_dev_count()
    return [describe(ggml, ggml.ggml_backend_dev_get(ctypes.c_size_t(index))) for index in range(count)]


def describe(ggml: Any, pointer: int, endpoint: str = "") -> Device:
    """Ask ggml for the properties of a device; with an `endpoint` it is one of an RPC server."""
    handle = ctypes.c_void_p(pointer)
    ggml.ggml_backend_dev_name.restype = ctypes.c_char_p
    ggml.ggml_backend_dev_description.restype = ctypes.c_char_p
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    number = ggml.ggml_backend_dev_type(handle)
    kind = RPC_DEVICE if endpoint else KINDS[number] if 0 <= number < len(KINDS) else "other"
    return Device(
        name=ggml.ggml_backend_dev_name(handle).decode(errors="replace"),
        free=free.value,
        kind=kind,
        shared=is_loopback(endpoint) if endpoint else kind == "integrated gpu" or sys.platform == "darwin",
        pointer=pointer,
        endpoint=endpoint,
        total=total.value,
        description=ggml.ggml_backend_dev_description(handle).decode(errors="replace"),
    )


def is_loopback(endpoint: str) -> bool:
    """Report whether host:port is on this machine."""
    host = endpoint.rpartition(":")[0].lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def choose_devices(found: list[Device], names: tuple[str, ...]) -> list[Device]:
    """Return the GPUs, or the devices of these names ("cpu" or "none": no GPU).

    Raises:
        DeviceError: one is not available.

    """
    gpus = [device for device in found if device.kind != "cpu"]
    if not names:
        return [device for device in gpus if device.kind in ("gpu", RPC_DEVICE)]
    chosen = []
    for name in names:
        if name.lower() in ("cpu", "none"):
            continue
        match = next((device for device in gpus if device.name.lower() == name.lower()), None)
        if match is None:
            known = ", ".join(["cpu", *(device.name for device in gpus)])
            raise DeviceError(f"device {name!r}: is not available; take one of {known}, or describe one with --vram")
        if match not in chosen:
            chosen.append(match)
    return chosen
