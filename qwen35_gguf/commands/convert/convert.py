"""Convert a checkpoint to GGUF."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from qwen35_gguf import progress
from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.units import format_file_size


@click.command("convert")
@click.argument("model")
@click.option("-q", "--quant", default="Q4_K_M", show_default=True, help="Any llama.cpp quantization name.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("models"),
    show_default=True,
    help="Directory of the files.",
)
@click.option("--no-mtp", is_flag=True, help="Leave out the multi-token-prediction head.")
@click.option("--no-vision", is_flag=True, help="Do not write the vision encoder.")
@click.option("--mmproj-type", default="BF16", show_default=True, help="Type of its matrices: BF16, F16, F32 or Q8_0.")
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--name", help="The model's name; derived from the checkpoint by default.")
@click.option("--recipe", help="Types for single tensors: a file made by `qwen35 recipe`, or deltanet.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="Importance matrix, made by `qwen35 imatrix`.")
@click.option("--dry-run", is_flag=True, help="Print the plan without reading weights.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads; 0 for one per core.")
@reports_errors
def command(no_mtp: bool, no_vision: bool, dry_run: bool, force: bool, jobs: int, **options: Any) -> None:
    """Convert MODEL, a checkpoint directory or a Hugging Face Hub id, to GGUF."""
    conversion = hf_to_gguf.plan_conversion(
        hf_to_gguf.ConversionOptions(mtp=not no_mtp, vision=not no_vision, **options)
    )
    for note in conversion.notes:
        progress.say(f"note: {note}")
    if dry_run:
        print_plan(conversion, jobs)
        return
    hf_to_gguf.run(conversion, force=force, jobs=jobs)
    for file in conversion.files:
        size = file.path.stat().st_size
        click.echo(f"{file.path}  {format_file_size(size)}  {8 * file.nbytes / file.parameters:.2f} bits per weight")
    click.echo(f"Run it: qwen35 run {shlex.quote(str(conversion.files[0].path))} 'Hello'")


def print_plan(conversion: hf_to_gguf.Conversion, jobs: int) -> None:
    """Print every tensor, its source, operations, type and bytes, then the totals."""
    console = Console(width=None if Console().is_terminal else 220)
    total = 0
    for file in conversion.files:
        table = Table(title=str(file.path), title_justify="left", box=None)
        for column in ("tensor", "shape", "source", "operations", "type"):
            table.add_column(column, no_wrap=column != "operations")
        table.add_column("bytes", justify="right")
        for tensor, info in zip(file.tensors, file.infos, strict=True):
            sources = [conversion.checkpoint.tensors[source].name for source in tensor.sources]
            source = sources[0] if len(sources) == 1 else f"{sources[0]} … ({len(sources)} experts)"
            part = f"[{tensor.part.index}/{tensor.part.count}]" if tensor.part else ""
            operations = ", ".join(operation.name for operation in tensor.operations)
            shape = " x ".join(map(str, tensor.shape))
            table.add_row(tensor.name, shape, source + part, operations, info.type.name, f"{info.nbytes:,}")
        console.print(table)
        console.print(f"{len(file.tensors)} tensors, {format_file_size(file.nbytes)}\n", highlight=False)
        total += file.nbytes
    console.print(
        f"Total {format_file_size(total)}; peak memory about {hf_to_gguf.peak_memory(conversion, jobs) / 1e6:,.0f} MB "
        "(nothing was written)",
        highlight=False,
    )
