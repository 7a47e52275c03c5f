"""The devices that the installed llama.cpp finds, and the memory they have."""

from __future__ import annotations

import ctypes
import ipaddress
import sys
from dataclasses import dataclass, field
from typing import Any

from qwen35_gguf.errors import DeviceError
from qwen35_gguf.runtime.llama.install import Installed

WORKER = "worker"
KINDS = ("cpu", "gpu", "integrated gpu", "accelerator")  # of ggml_backend_dev_type


@dataclass(frozen=True)
class Device:
    """A device of ggml's.

    Attributes:
        name: as llama.cpp calls it and its buffers: CUDA0, Vulkan0, RPC0, ...
        free: bytes.
        kind: one of `KINDS`, or `WORKER`.
        shared: its memory is the host's.
        pointer: ggml's handle (`ggml_backend_dev_t`); 0 for a device that is only planned with.
        endpoint: host:port of a worker.

    """

    name: str
    free: int
    kind: str = "gpu"
    shared: bool = False
    pointer: int = field(default=0, compare=False)
    endpoint: str = ""


def ggml_library(runtime: Installed) -> Any:
    """Load ggml's libraries from where llama-cpp-python has them; None if one is not there.

    The last one finds the functions of all that it was linked with, the backends' among them.
    """
    suffix = {"darwin": "libggml{}.dylib", "win32": "ggml{}.dll"}.get(sys.platform, "libggml{}.so")
    ggml: Any = None
    for part in ("-base", "-cpu", ""):
        path = runtime.folder / "lib" / suffix.format(part)
        if not path.is_file():
            return None
        ggml = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return ggml


def find_devices(runtime: Installed) -> list[Device]:
    """Ask ggml for its devices, the CPU included; none if its library is not where it is expected."""
    ggml = ggml_library(runtime)
    if ggml is None:
        return []
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    count = ggml.ggml_backend_dev_count()
    return [describe(ggml, ggml.ggml_backend_dev_get(ctypes.c_size_t(index))) for index in range(count)]


def describe(ggml: Any, pointer: int, endpoint: str = "") -> Device:
    """Ask ggml what a device is; with an `endpoint` it is a worker's."""
    handle = ctypes.c_void_p(pointer)
    ggml.ggml_backend_dev_name.restype = ctypes.c_char_p
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    number = ggml.ggml_backend_dev_type(handle)
    kind = WORKER if endpoint else KINDS[number] if 0 <= number < len(KINDS) else "other"
    name = ggml.ggml_backend_dev_name(handle).decode(errors="replace")
    shared = is_loopback(endpoint) if endpoint else kind == "integrated gpu" or sys.platform == "darwin"
    return Device(name, free.value, kind, shared, pointer, endpoint)


def is_loopback(endpoint: str) -> bool:
    """Say whether host:port is on this machine."""
    host = endpoint.rpartition(":")[0].lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def choose_devices(found: list[Device], names: tuple[str, ...]) -> list[Device]:
    """Return the GPUs, or the devices of these names ("cpu" or "none": no GPU at all).

    Raises:
        DeviceError: one is not there.

    """
    gpus = [device for device in found if device.kind != "cpu"]
    if not names:
        return [device for device in gpus if device.kind in ("gpu", WORKER)]
    chosen = []
    for name in names:
        if name.lower() in ("cpu", "none"):
            continue
        match = next((device for device in gpus if device.name.lower() == name.lower()), None)
        if match is None:
            there = ", ".join(["cpu", *(device.name for device in gpus)])
            raise DeviceError(f"device {name!r}: is not there; take one of {there}, or describe one with --vram")
        if match not in chosen:
            chosen.append(match)
    return chosen
