"""Collect an importance matrix over a text."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.atomic_file import check_output
from qwen35_gguf.commands import output
from qwen35_gguf.commands.parameter_types import tokens
from qwen35_gguf.commands.text_option import texts_option
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.errors import ImatrixError
from qwen35_gguf.evaluation import collect_imatrix
from qwen35_gguf.evaluation.texts.packaged import CALIBRATION
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.quant import imatrix
from qwen35_gguf.runtime.cpu_threads import default_threads

PATH = click.Path(path_type=Path)


@click.command("imatrix", cls=Verb)
@click.argument("file", metavar="MODEL", type=PATH)
@texts_option("Calibration text")
@click.option("-o", "--out", type=PATH, required=True, help="The GGUF to be written.")
@click.option("--chunk", type=tokens(16, 32768), default=512, show_default=True, help="Tokens per chunk.")
@click.option("--chunks", type=click.IntRange(min=1), help="Number of chunks at most; by default the whole text.")
@click.option("--merge", "others", type=PATH, multiple=True, help="Add this matrix of the same model; may be repeated.")
@click.option("--threads", type=click.IntRange(min=1), help="By default one for each physical core.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(
    file: Path,
    texts: tuple[Path, ...],
    out: Path,
    chunk: int,
    chunks: int | None,
    others: tuple[Path, ...],
    threads: int | None,
    force: bool,
) -> None:
    """Sum the squared inputs of each matmul of MODEL over a text. Run the same command again to resume.

    The file has the format of llama-imatrix; llama-quantize can use it as well.
    """
    check_output(out, inputs=[file, *texts, *others], force=force)
    read = [imatrix.read(other) for other in others]
    collect_imatrix.check_same_model(read, file)
    split = splitter(texts, CALIBRATION)
    with progress.steps() as bar:
        found = collect_imatrix.collect(
            file,
            split,
            out,
            dataset=" + ".join(path.name for path in texts) or "qwen35-gguf calibration",
            chunk=chunk,
            chunks=chunks,
            threads=threads or default_threads(),
            advance=progress.counted(bar, f"{file.name}, chunks"),
        )
    if read:
        found = imatrix.merge([found, *read])
        imatrix.write(found, out)
    if not found.entries:
        raise ImatrixError(f"{file}: no matmul was evaluated; use another model or a longer text")
    output.echo(f"{out}  {len(found.entries)} tensors, {found.chunks} chunks of {found.chunk_size} tokens")
    output.advise(f"Use it: qwen35 convert CHECKPOINT -q Q4_K_M --imatrix {shlex.quote(str(out))}")
    size = {"chunks": found.chunks, "chunk_size": found.chunk_size}
    output.emit({"file": str(out), "tensors": len(found.entries), "datasets": found.datasets} | size)
