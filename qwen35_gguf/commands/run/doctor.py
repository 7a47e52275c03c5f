"""Report what this installation can do, what is wrong with it, and what mends that."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata

import click

from qwen35_gguf import __version__, ggml_ops
from qwen35_gguf.commands import output
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.doctor.engine import Engine, Expected, find_engine
from qwen35_gguf.doctor.examine import examine
from qwen35_gguf.doctor.finding import Finding
from qwen35_gguf.doctor.host import Host
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.units import format_size

PROBLEMS = 1  # exit code
COLOURS = {"error": "red", "warning": "yellow", "note": "bright_black"}


@click.command("doctor", cls=Verb)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
def command(strict: bool) -> None:
    """Report what this installation can do, what is wrong with it or this machine, and the command that mends each.

    The exit code is 0 if models run, even if slowly, and 1 if they do not.
    """
    host, engine = Host(), find_engine()
    findings = examine(host, engine, Expected.here())
    found: dict[str, list[str]] = {}
    for name, value in report(host, engine):
        output.echo(f"{name:<12}{value}")
        found.setdefault(name or list(found)[-1], []).append(value)
    show(findings)
    counted = ("error", "warning") if strict else ("error",)
    healthy = all(finding.severity not in counted for finding in findings)
    output.emit({**found, "findings": [asdict(finding) for finding in findings], "healthy": healthy})
    if not healthy:
        raise click.exceptions.Exit(PROBLEMS)


def show(findings: list[Finding]) -> None:
    """Print findings, each with the command that mends it on a line of its own."""
    if not findings:
        output.echo("\nnothing wrong was found")
    for finding in findings:
        severity = click.style(finding.severity, fg=COLOURS[finding.severity], bold=True)
        text = textwrap.wrap(finding.problem, 100, subsequent_indent=" " * 4)
        output.echo(f"\n{severity}: " + "\n".join(text))
        output.echo(f"    {finding.command}")


def report(host: Host, engine: Engine) -> Iterator[tuple[str, str]]:
    """Yield the facts as pairs of a name and a text; a name that is empty is as before."""
    yield "package", f"qwen35-gguf {package_version()}, Python {platform.python_version()}"
    yield "processor", f"{platform.machine()}: {', '.join(ggml_ops.targets())}"
    if host.processor:
        yield "", host.processor
    cores = f"{host.cores} cores" if host.cores else "cores unknown"
    yield "threads", f"{default_threads(host.root)} by default ({cores}, {len(host.processors)} processors)"
    total = f" of {format_size(host.total_memory)}" if host.total_memory else ""
    yield "memory", f"{format_size(host.available_memory)} available{total}"
    yield "kernels", f"{ggml_ops.target()} (QWEN35_CPU chooses another)"
    yield "", f"matmul of quantized weights: {ggml_ops.matmul_target() or 'that of ggml'}"
    installed = engine.installed
    if installed is None:
        yield "runtime", "none"
        return
    yield "runtime", f"{installed.distribution} {installed.version}, {'patched' if installed.patches else 'stock'}"
    for patch in installed.patches:
        yield "", patch
    if engine.features:
        yield "", f"compiled for {', '.join(sorted(engine.features))}"
    for device in engine.devices:
        total, free = device["total"] / 1e9, device["free"] / 1e9
        yield "device", f"{device['name']}: {device['description']}, {total:.1f} GB, {free:.1f} GB free"


def package_version() -> str:
    """Return the version of the distribution, or of the package where it is only on the path."""
    try:
        return metadata.version("qwen35-gguf")
    except metadata.PackageNotFoundError:
        return __version__
