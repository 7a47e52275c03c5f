"""Join the shards of a GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.commands import output
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.units import format_file_size


@click.command("merge", cls=Verb)
@click.argument("first", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The file to be written.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(first: Path, out: Path, force: bool) -> None:
    """Join the shards beside FIRST (NAME-00001-of-0000N.gguf) into one file."""
    total = sum(tensor.nbytes for shard in shards.read_set(first) for tensor in shard.tensors)
    with progress.progress(total, out.name) as advance:
        shards.merge(first, out, force=force, advance=advance)
    size = out.stat().st_size
    output.echo(f"{out}  {format_file_size(size)}")
    output.emit({"file": str(out), "bytes": size})
