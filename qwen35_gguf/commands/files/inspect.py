"""Show what is in a GGUF file, and its bits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
from gguf import GGUFValueType
from rich.console import Console
from rich.table import Table

from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.errors import OutputError
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.gguf_file.shards import read_set
from qwen35_gguf.release import bits_map

SHOWN = 100  # characters of a value


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the map as a picture.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@reports_errors
def command(file: Path, tensors: bool, svg: Path | None, as_json: bool) -> None:
    """Print FILE's metadata, its tensors, bits for each role, and a map of the bits; shards are read together."""
    shards = read_set(file)
    entries = shards[0].entries
    listed = [tensor for shard in shards for tensor in shard.tensors]
    weights, total = sum(math.prod(t.shape) for t in listed), sum(t.nbytes for t in listed)
    table = bits_map.rows(listed)
    if svg is not None:
        title = f"{file.stem}: {8 * total / max(1, weights):.2f} bits per weight"
        try:
            svg.write_text(bits_map.svg(table, title), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{svg}: cannot be written ({error.strerror or error})") from None
    if as_json:
        click.echo(json.dumps(record(entries, listed, table, weights, total), indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    for entry in entries:
        console.print(f"{entry.key} = {short(entry)}", markup=False, soft_wrap=True)
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
        f"{len(listed)} tensors, {weights / 1e6:,.1f} million weights, {total / 1e6:,.1f} MB, "
        f"{8 * total / max(1, weights):.2f} bits per weight"
    )
    if svg is not None:
        console.print(str(svg), markup=False, soft_wrap=True)


def short(entry: KeyValue) -> str:
    """Write a value on one line; of long arrays the first elements."""
    value = entry.value
    if entry.type == GGUFValueType.ARRAY and entry.count > 8:
        return _cut(f"{entry.count:,}: {json.dumps(value[:4], ensure_ascii=False)[:-1]}, ...")
    return _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def record(entries: Any, listed: Any, table: Any, weights: int, total: int) -> dict[str, Any]:
    """Give everything as what JSON knows."""
    return {
        "metadata": {entry.key: entry.value for entry in entries},
        "tensors": [{"name": t.name, "shape": list(t.shape), "type": t.type.name, "bytes": t.nbytes} for t in listed],
        "roles": {row.role: {"bits": 8 * row.nbytes / row.weights, "bytes": row.nbytes} for row in table},
        "bits_per_weight": 8 * total / max(1, weights),
    }
