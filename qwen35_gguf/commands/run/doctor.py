"""Report what this installation can do."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

import click

from qwen35_gguf import ggml_ops
from qwen35_gguf.commands import output
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.runtime.llama.devices import find_devices
from qwen35_gguf.runtime.llama.install import STOCK_NOTE, installed_runtime


@click.command("doctor", cls=Verb)
def command() -> None:
    """Report what this installation can do: runtime and patches, processor, kernels, devices."""
    found: dict[str, list[str]] = {}
    for name, value in report():
        output.echo(f"{name:<12}{value}")
        found.setdefault(name or list(found)[-1], []).append(value)
    output.emit(found)


def report() -> Iterator[tuple[str, str]]:
    """Yield the lines as pairs of a name and a text."""
    yield "package", f"qwen35-gguf {metadata.version('qwen35-gguf')}, Python {platform.python_version()}"
    yield "processor", f"{platform.machine()}: {', '.join(ggml_ops.targets())}"
    yield "kernels", f"{ggml_ops.target()} (QWEN35_CPU chooses another)"
    matmul = ggml_ops.matmul_target()
    yield "", f"matmul of quantized weights: {matmul or 'that of ggml'}"
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
    for device in devices():
        yield "device", device


def devices() -> Iterator[str]:
    """Yield a line for each device that the runtime's ggml finds: name, description, memory."""
    found = find_devices()
    if not found:
        yield "unknown: the ggml libraries of llama-cpp-python are not in the expected place"
    for device in found:
        total, free = device.total / 1e9, device.free / 1e9
        yield f"{device.name}: {device.description}, {total:.1f} GB, {free:.1f} GB free"
