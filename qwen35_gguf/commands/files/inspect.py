"""Show the metadata and tensors of a GGUF file, and a map of its bits per weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from qwen35_gguf.atomic_file import check_output, write_text
from qwen35_gguf.commands import output
from qwen35_gguf.commands.metadata_text import shorten
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.gguf_file.header import TensorInfo
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.gguf_file.shards import read_set
from qwen35_gguf.release import bits_map
from qwen35_gguf.units import format_file_size


@click.command("inspect", cls=Verb)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the map as an SVG image.")
@click.option("--force", is_flag=True, help="Replace an existing file of --svg.")
def command(file: Path, tensors: bool, svg: Path | None, force: bool) -> None:
    """Print FILE's metadata, and bits per weight of each role and layer; all shards of a set are read."""
    shards = read_set(file)
    if svg is not None:
        check_output(svg, inputs=[shard.path for shard in shards], force=force)
    entries = shards[0].entries
    listed = [tensor for shard in shards for tensor in shard.tensors]
    weights, total = sum(math.prod(t.shape) for t in listed), sum(t.nbytes for t in listed)
    table = bits_map.rows(listed)
    if svg is not None:
        title = f"{file.stem}: {8 * total / max(1, weights):.2f} bits per weight"
        write_text(svg, bits_map.svg(table, title))
    output.emit(record(entries, listed, table, weights, total))
    console = output.console(highlight=False)
    console.width = max(console.width, 120)
    for entry in entries:
        console.print(f"{entry.key} = {shorten(entry)}", markup=False, soft_wrap=True)
    console.print()
    if tensors:
        grid = Table(box=None, pad_edge=False)
        for name in ("tensor", "shape", "type", "bytes"):
            grid.add_column(name, justify="right" if name == "bytes" else "left", no_wrap=True)
        for tensor in listed:
            shape = " x ".join(str(n) for n in tensor.shape)
            grid.add_row(tensor.name, shape, tensor.type.name, f"{tensor.nbytes:,}")
        console.print(grid)
        console.print()
    bits_map.show(console, table)
    console.print(
        f"{len(listed)} tensors, {weights / 1e6:,.1f} million weights, {format_file_size(total)}, "
        f"{8 * total / max(1, weights):.2f} bits per weight"
    )
    if svg is not None:
        console.print(str(svg), markup=False, soft_wrap=True)


def record(
    entries: Sequence[KeyValue],
    listed: Sequence[TensorInfo],
    table: Sequence[bits_map.Row],
    weights: int,
    total: int,
) -> dict[str, Any]:
    """Return everything as JSON."""
    return {
        "metadata": {entry.key: entry.value for entry in entries},
        "tensors": [{"name": t.name, "shape": list(t.shape), "type": t.type.name, "bytes": t.nbytes} for t in listed],
        "roles": {row.role: {"bits": 8 * row.nbytes / row.weights, "bytes": row.nbytes} for row in table},
        "bits_per_weight": 8 * total / max(1, weights),
    }
