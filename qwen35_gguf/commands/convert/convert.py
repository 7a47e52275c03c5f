"""Convert a checkpoint to GGUF."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from qwen35_gguf.atomic_file import check_folder, check_output
from qwen35_gguf.commands import given, output
from qwen35_gguf.commands.conversion_options import adapter_options, rounding_options
from qwen35_gguf.commands.first_contact import completion
from qwen35_gguf.commands.models_folder import MODELS_FOLDER
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.gguf_file.header import TensorInfo
from qwen35_gguf.units import format_file_size


@click.command("convert", cls=Verb)
@click.argument("model")
@click.option(
    "-q",
    "--quant",
    default="Q4_K_M",
    show_default=True,
    shell_complete=completion.quants,
    help="Any llama.cpp quantization name.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=MODELS_FOLDER,
    show_default=True,
    help="Directory of the files.",
)
@click.option("--no-mtp", is_flag=True, help="Leave out the multi-token-prediction head.")
@click.option("--no-vision", is_flag=True, help="Do not write the vision encoder.")
@click.option("--mmproj-type", default="Q8_0", show_default=True, help="Type of its matrices: Q8_0, BF16, F16 or F32.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--name", help="The model's name; derived from the checkpoint by default.")
@click.option("--recipe", help="Types for single tensors: a file made by `qwen35 recipe`, or deltanet.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="Importance matrix, made by `qwen35 imatrix`.")
@rounding_options("block", "full", "sequential")
@click.option(
    "--ignore-config",
    metavar="KEY",
    multiple=True,
    help="Read config.json as if it had no KEY (a name or a path); may be repeated.",
)
@adapter_options
@click.option("--dry-run", is_flag=True, help="Print the plan, by type, without reading weights.")
@click.option("--verbose", is_flag=True, help="With --dry-run: list every tensor.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads; 0 for one per core.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    no_mtp: bool,
    no_vision: bool,
    dry_run: bool,
    verbose: bool,
    force: bool,
    jobs: int,
    **options: Any,
) -> None:
    """Convert MODEL, a checkpoint directory or a Hugging Face Hub id, to GGUF."""
    if no_vision:
        given.refuse(ctx, ["mmproj_type"], "with --no-vision")
    if dry_run:
        given.refuse(ctx, ["force"], "with --dry-run, which writes nothing")
    else:
        given.refuse(ctx, ["verbose"], "without --dry-run")
        check_folder(options["out"])
    conversion = hf_to_gguf.plan_conversion(
        hf_to_gguf.ConversionOptions(mtp=not no_mtp, vision=not no_vision, **options)
    )
    for note in conversion.notes:
        output.note(f"note: {note}")
    if dry_run:
        print_plan(conversion, jobs, tensors=verbose)
        return
    inputs = [Path(one) for one in (options["imatrix"], options["moments"], options["recipe"]) if one]
    for number, file in enumerate(conversion.files):  # a vision encoder may be there, of another quantization
        check_output(file.path, inputs=inputs, force=force or number > 0)
    kept = hf_to_gguf.run(conversion, force=force, jobs=jobs)
    made = []
    for file in conversion.files:
        size, bits = file.path.stat().st_size, 8 * file.nbytes / file.parameters
        was_there = "  (was there already)" if file.path in kept else ""
        output.echo(f"{file.path}  {format_file_size(size)}  {bits:.2f} bits per weight{was_there}")
        made.append({"file": str(file.path), "bytes": size, "bits_per_weight": bits})
    output.advise(f"Run it: qwen35 run {shlex.quote(str(conversion.files[0].path))} 'Hello'")
    output.emit({"files": made, "notes": list(conversion.notes)})


def print_plan(conversion: hf_to_gguf.Conversion, jobs: int, *, tensors: bool) -> None:
    """Print each file's types with their tensors and bytes, or every tensor; then the totals."""
    console = output.console()
    console.width = max(console.width, 220 if tensors else 120)  # every column whole
    for file in conversion.files:
        console.print(_every_tensor(conversion, file) if tensors else _by_type(file))
        bits = 8 * file.nbytes / file.parameters
        console.print(
            f"{len(file.tensors)} tensors, {format_file_size(file.nbytes)}, {bits:.2f} bits per weight\n",
            highlight=False,
        )
    total, memory = sum(file.nbytes for file in conversion.files), hf_to_gguf.peak_memory(conversion, jobs)
    console.print(
        f"Total {format_file_size(total)}; peak memory about {memory / 1e6:,.0f} MB (nothing was written)",
        highlight=False,
    )
    files = [
        {"file": str(f.path), "bytes": f.nbytes, "tensors": list(_tensors(conversion, f))} for f in conversion.files
    ]
    output.emit({"files": files, "bytes": total, "peak_memory": memory, "notes": list(conversion.notes)})


def _by_type(file: hf_to_gguf.PlannedFile) -> Table:
    """Summarize a file: a row for each type, the one with the most bytes first."""
    table = Table(title=str(file.path), title_justify="left", box=None)
    table.add_column("type")
    for column in ("tensors", "weights", "size", "largest"):
        table.add_column(column, justify="left" if column == "largest" else "right")
    groups: dict[str, list[TensorInfo]] = {}
    for info in file.infos:
        groups.setdefault(info.type.name, []).append(info)
    for name, group in sorted(groups.items(), key=lambda item: -sum(info.nbytes for info in item[1])):
        weights, nbytes = sum(math.prod(info.shape) for info in group), sum(info.nbytes for info in group)
        largest = max(group, key=lambda info: info.nbytes).name
        table.add_row(name, f"{len(group):,}", f"{weights:,}", format_file_size(nbytes), largest)
    return table


def _every_tensor(conversion: hf_to_gguf.Conversion, file: hf_to_gguf.PlannedFile) -> Table:
    """List the tensors of a file: source, operations, type and bytes."""
    table = Table(title=str(file.path), title_justify="left", box=None)
    for column in ("tensor", "shape", "source", "operations", "type"):
        table.add_column(column, no_wrap=column != "operations")
    table.add_column("bytes", justify="right")
    for row in _tensors(conversion, file):
        shape, operations = " x ".join(map(str, row["shape"])), ", ".join(row["operations"])
        table.add_row(row["name"], shape, row["source"], operations, row["type"], f"{row['bytes']:,}")
    return table


def _tensors(conversion: hf_to_gguf.Conversion, file: hf_to_gguf.PlannedFile) -> Iterator[dict[str, Any]]:
    for tensor, info in zip(file.tensors, file.infos, strict=True):
        sources = [conversion.checkpoint.tensors[source].name for source in tensor.sources]
        source = sources[0] if len(sources) == 1 else f"{sources[0]} … ({len(sources)} experts)"
        yield {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "source": source + (f"[{tensor.part.index}/{tensor.part.count}]" if tensor.part else ""),
            "operations": [operation.name for operation in tensor.operations],
            "type": info.type.name,
            "bytes": info.nbytes,
        }
