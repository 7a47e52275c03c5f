"""Print what this installation can do."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

import click

from qwen35_gguf import ggml_ops
from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.runtime.llama.install import STOCK_NOTE, Installed, installed_runtime


@click.command("doctor")
@reports_errors
def command() -> None:
    """Print what this installation can do: runtime and patches, processor, kernels, devices."""
    for name, value in report():
        click.echo(f"{name:<12}{value}")


def report() -> Iterator[tuple[str, str]]:
    """Yield the lines as pairs of a name and what there is to say."""
    yield "package", f"qwen35-gguf {metadata.version('qwen35-gguf')}, Python {platform.python_version()}"
    yield "processor", f"{platform.machine()}: {', '.join(ggml_ops.targets())}"
    yield "kernels", f"{ggml_ops.target()} (QWEN35_CPU takes another)"
    products = ggml_ops.product_target()
    yield "", f"products of quantized weights: {products or 'as ggml has them'}"
    runtime = installed_runtime()
    if runtime is None:
        yield "runtime", "none: llama-cpp-python is not installed; make runtime"
        return
    if runtime.patches:
        yield "runtime", f"llama-cpp-python {runtime.version}, patched"
        for patch in runtime.patches:
            yield "", patch
    else:
        yield "runtime", f"llama-cpp-python {runtime.version}, stock"
        yield "", STOCK_NOTE
    for device in devices(runtime):
        yield "device", device


def devices(runtime: Installed) -> Iterator[str]:
    """Yield a line for each device that the runtime's ggml finds: name, description, memory."""
    suffix = {"darwin": "libggml{}.dylib", "win32": "ggml{}.dll"}.get(sys.platform, "libggml{}.so")
    for part in ("-base", "-cpu", ""):
        path = runtime.folder / "lib" / suffix.format(part)
        if not path.is_file():
            yield f"unknown: {path.name} is not in {path.parent}"
            return
        ggml = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    for index in range(ggml.ggml_backend_dev_count()):
        device = ctypes.c_void_p(ggml.ggml_backend_dev_get(ctypes.c_size_t(index)))
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        yield (
            f"{_text(ggml.ggml_backend_dev_name, device)}: {_text(ggml.ggml_backend_dev_description, device)}, "
            f"{total.value / 1e9:.1f} GB, {free.value / 1e9:.1f} GB free"
        )


def _text(function: ctypes._NamedFuncPointer, device: ctypes.c_void_p) -> str:
    function.restype = ctypes.c_char_p
    text: bytes = function(device)
    return text.decode(errors="replace")
