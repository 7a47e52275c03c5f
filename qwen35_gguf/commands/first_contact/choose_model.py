"""What is offered where no model is named: those of this machine, or sizes that fit it, with the command for each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from qwen35_gguf.commands import output
from qwen35_gguf.commands.models_folder import MODELS_FOLDER
from qwen35_gguf.doctor.engine import Engine, find_engine
from qwen35_gguf.hub.stored_models import StoredModel, in_cache, in_folder
from qwen35_gguf.offers.fitting_sizes import CONTEXT, SizeOffer, fitting_sizes, recommended
from qwen35_gguf.runtime.llama.devices import Device
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.plan import Machine
from qwen35_gguf.units import format_file_size, format_size

SHOWN = 20


def choose_model(ctx: click.Context) -> Path:
    """Offer models; on a terminal ask for one of those that are here.

    Raises:
        click.UsageError: none is here, or nobody can be asked.

    """
    models = stored()
    verb = ctx.info_name or "run"
    if models:
        _show_models(models, verb)
        if is_terminal():
            number = click.prompt("Which one", type=click.IntRange(1, len(models)), default=1, err=True)
            return Path(models[number - 1].name)
        output.emit({"models": [_model_record(model, verb) for model in models], "sizes": []})
    else:
        engine = find_engine()
        sizes = fitting_sizes(machine(engine))
        _show_sizes(sizes, engine, verb)
        output.emit({"models": [], "sizes": [_size_record(size, best=size is recommended(sizes)) for size in sizes]})
    raise click.UsageError("Missing argument 'FILE'.", ctx)


def ask_prompt() -> str:
    """Ask for a prompt on a terminal."""
    text: str = click.prompt("Prompt", err=True)
    return text


def is_terminal() -> bool:
    """Tell whether somebody can be asked, and wants to read."""
    return sys.stdin.isatty() and sys.stderr.isatty() and not output.is_json() and not output.is_quiet()


def stored() -> list[StoredModel]:
    """List the text models of this machine, the one that was used last first."""
    found = [model for model in (*in_folder(MODELS_FOLDER), *in_cache()) if model.kind == "model"]
    return sorted(found, key=lambda model: -model.last_use)[:SHOWN]


def machine(engine: Engine) -> Machine:
    """Describe this machine's memory; its GPUs are those that an engine found in a process of its own."""
    gpus = (device for device in engine.devices if device["kind"] == "gpu" and device["free"] > 0)
    return Machine(available_bytes(), tuple(Device(device["name"], device["free"]) for device in gpus))


def _show_models(models: Sequence[StoredModel], verb: str) -> None:
    output.note("Models of this machine:")
    width = max(len(model.name) for model in models)
    for number, model in enumerate(models, 1):
        output.note(f"{number:>3}  {model.name:<{width}}  {format_file_size(model.size):>12}")
    output.note(f"{_command(models[0], verb)}    runs the first")


def _command(model: StoredModel, verb: str) -> str:
    return f"qwen35 {verb} {model.name}" + (' "Hello"' if verb == "run" else "")


def _show_sizes(sizes: Sequence[SizeOffer], engine: Engine, verb: str) -> None:
    free = format_size(available_bytes())
    output.note(f"No model is in {MODELS_FOLDER} or in the cache of the Hub.")
    if not sizes:
        output.note(f"No size of Qwen3.5 fits into the {free} of memory that are available; close other programs")
        return
    output.note(f"What fits into the {free} of memory that are available, with {CONTEXT:,} tokens of context:")
    for size in sizes:
        name, file = f"Qwen3.5-{size.model.name} {size.quant}", format_size(size.file_bytes)
        memory, download = format_size(size.memory), format_size(size.download)
        output.note(f"  {name:<24}{memory:>8} of memory, {file:>8} on disk, {download:>8} to download")
    if engine.installed is None:
        output.note("First, once: qwen35 setup    installs llama.cpp")
    best = recommended(sizes)
    output.note(f"To get Qwen3.5-{best.model.name}: {best.command}    then `qwen35 {verb}` again")
    output.note(f"A GGUF of the Hub needs no conversion: qwen35 {verb} USER/NAME:Q4_K_M")


def _model_record(model: StoredModel, verb: str) -> dict[str, Any]:
    return {"name": model.name, "size": model.size, "command": _command(model, verb)}


def _size_record(size: SizeOffer, *, best: bool) -> dict[str, Any]:
    return {
        "name": f"Qwen3.5-{size.model.name}",
        "quant": size.quant,
        "memory": size.memory,
        "size": size.file_bytes,
        "download": size.download,
        "command": size.command,
        "recommended": best,
    }
