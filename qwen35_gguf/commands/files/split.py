"""Split a GGUF file into shards."""

from __future__ import annotations

from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.commands import output
from qwen35_gguf.commands.parameter_types import SIZE
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.units import format_file_size


@click.command("split", cls=Verb)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the shards.")
@click.option("--max-shard-size", type=SIZE, default="2GB", show_default=True, help="Such as 500MB or 2GiB.")
@click.option("--force", is_flag=True, help="Replace existing files.")
def command(file: Path, out: Path, max_shard_size: int, force: bool) -> None:
    """Split FILE into shards NAME-00001-of-0000N.gguf; llama.cpp loads them from the first one."""
    total = sum(tensor.nbytes for tensor in read_header(file).tensors)
    with progress.progress(total, file.name) as advance:
        paths = shards.split(file, out, max_shard_size, force=force, advance=advance)
    sizes = [path.stat().st_size for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        output.echo(f"{path}  {format_file_size(size)}")
    if count := sum(size > max_shard_size for size in sizes):
        output.note(
            f"note: {count} of {len(sizes)} files are larger than --max-shard-size, up to "
            f"{format_file_size(max(sizes))}: a tensor is never split"
        )
    output.emit({"files": [{"file": str(path), "bytes": size} for path, size in zip(paths, sizes, strict=True)]})
