"""Collect an importance matrix over a text."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from gguf import GGMLQuantizationType

from qwen35_gguf import progress
from qwen35_gguf.atomic_file import check_output, reserved
from qwen35_gguf.commands import given, output
from qwen35_gguf.commands.parameter_types import MEMORY, tokens
from qwen35_gguf.commands.text_option import texts_option
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.errors import GgufError, ImatrixError, ModelError
from qwen35_gguf.evaluation import collect_imatrix, collect_moments, sequential_moments
from qwen35_gguf.evaluation.texts.packaged import CALIBRATION
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.quant import imatrix
from qwen35_gguf.quant.imatrix import Imatrix
from qwen35_gguf.quant.rounding import merge_moments
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.moments import Moments
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.model_files import read_model

PATH = click.Path(path_type=Path)
OF_A_MODEL = ("texts", "chunk", "chunks", "moments", "no_effects", "sequential", "memory", "threads")


@click.command("imatrix", cls=Verb)
@click.argument("model", metavar="[MODEL]", type=PATH, nargs=-1)
@texts_option("Calibration text")
@click.option("-o", "--out", type=PATH, required=True, help="The GGUF to be written.")
@click.option("--chunk", type=tokens(16, 32768), default=512, show_default=True, help="Tokens per chunk.")
@click.option("--chunks", type=click.IntRange(min=1), help="Number of chunks at most; by default the whole text.")
@click.option(
    "--moments",
    type=click.Choice(["block", "full"]),
    help="Also collect second moments, for `qwen35 convert --rounding`, into OUT.moments.gguf.",
)
@click.option(
    "--no-effects",
    is_flag=True,
    help="With --moments: all tokens count alike, not by how much errors at them matter; a tenth of the time.",
)
@click.option(
    "--sequential",
    type=PATH,
    metavar="FILE",
    help="With --moments: of the model as it is in FILE, a quantized GGUF of it, up to each layer.",
)
@click.option("--memory", type=MEMORY, default="4GB", show_default=True, help="Memory of the sums of --moments.")
@click.option(
    "--merge",
    "others",
    type=PATH,
    multiple=True,
    help="Add this matrix, or these moments, of the same model; may be repeated. Without MODEL: only add.",
)
@click.option("--threads", type=click.IntRange(min=1), help="By default one for each physical core.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: tuple[Path, ...],
    texts: tuple[Path, ...],
    out: Path,
    chunk: int,
    chunks: int | None,
    moments: files.Kind | None,
    no_effects: bool,
    sequential: Path | None,
    memory: int,
    others: tuple[Path, ...],
    threads: int | None,
    force: bool,
) -> None:
    """Sum the squared inputs of each matmul of MODEL over a text. Run the same command again to resume.

    The file has the format of llama-imatrix; llama-quantize can use it as well. `--merge A B C -o FILE` adds the files
    of several texts, or of parts of one.
    """
    models = [path for path in model if not (others and _type_of(path) in ("imatrix", "moments"))]
    others = (*others, *(path for path in model if path not in models))
    if len(models) > 1 or not (models or others):
        raise click.UsageError("give one MODEL, or files to --merge")
    check_output(out, inputs=[*models, *texts, *others, sequential], force=force)
    if not models:
        given.refuse(ctx, list(OF_A_MODEL), "without MODEL")
        _add(others, out)
        return
    if moments is None:
        given.refuse(ctx, ["no_effects", "memory", "sequential"], "without --moments")
    file, dataset = models[0], " + ".join(path.name for path in texts) or "qwen35-gguf calibration"
    added = [path for path in others if _type_of(path) == "moments"]
    read, read_moments = [imatrix.read(path) for path in others if path not in added], [files.read(p) for p in added]
    collect_imatrix.check_same_model(read, file)
    split = splitter(texts, CALIBRATION)
    how: dict[str, Any] = {
        "dataset": dataset,
        "chunk": chunk,
        "chunks": chunks,
        "threads": threads or default_threads(),
    }
    with reserved(out), progress.steps() as bar:
        passes = "chunks" if moments is None else "steps"  # each chunk is evaluated several times
        advance = progress.counted(bar, f"{file.name}, {passes}")
        if moments is None:
            found = collect_imatrix.collect(file, split, out, advance=advance, **how)
        else:
            path = moments_path(out)
            check_output(path, inputs=[file, *texts, *others], force=force)
            how |= {"kind": moments, "effects": not no_effects, "memory_limit": memory, "advance": advance}
            if sequential is None:
                collected = collect_moments.collect(file, split, path, **how)
            else:
                collected = sequential_moments.collect(file, split, path, types_of(sequential, file), **how)
            if read_moments:
                merge_moments.join([collected, *read_moments], path)
            found = _with_moments(files.read(path), file, out)
    if read:
        found = imatrix.merge([found, *read])
        imatrix.write(found, out)
    if not found.entries:
        raise ImatrixError(f"{file}: no matmul was evaluated; use another model or a longer text")
    _report(found, out, moments_path(out) if moments else None, "sequential" if sequential else "block")


def moments_path(out: Path) -> Path:
    """Name the moments that belong to an importance matrix: FILE.gguf and FILE.moments.gguf."""
    return out.with_name(f"{out.name.removesuffix('.gguf')}.moments.gguf")


def types_of(quantized: Path, model: Path) -> dict[str, GGMLQuantizationType]:
    """Return the types of a quantized model's tensors.

    Raises:
        ModelError: it is not of this model.

    """
    header = read_model(quantized)
    if any(header.shapes.get(name) != shape for name, shape in read_model(model).shapes.items()):
        raise ModelError(f"{quantized}: has other tensors than {model}; convert the same checkpoint, MTP head included")
    return {tensor.name: tensor.type for tensor in header.tensors}


def _with_moments(collected: Moments, model: Path, out: Path) -> Imatrix:
    """Write the importance matrix that moments hold; warn about too little text."""
    found = collected.importance(collect_imatrix.weight_names(read_header(model)))
    imatrix.write(found, out)
    if few := collected.too_few():
        output.note(
            f"note: {few[0]} saw {few[1]:.0f} tokens for each of its columns; use a longer text, "
            f"for {files.ENOUGH} or more"
        )
    return found


def _add(others: tuple[Path, ...], out: Path) -> None:
    kinds = {_type_of(path) for path in others}
    if kinds == {"moments"}:
        merge_moments.join([files.read(path) for path in others], out)
        joined = files.read(out)
        size = {"chunks": joined.provenance.chunks, "chunk_size": joined.provenance.chunk_size}
        output.echo(f"{out}  {len(joined.names)} inputs, {size['chunks']} chunks of {size['chunk_size']} tokens")
        output.emit(
            {"file": str(out), "tensors": len(joined.names), "datasets": list(joined.provenance.datasets)} | size
        )
        return
    if "moments" in kinds:
        raise ImatrixError("moments and importance matrices cannot be added; merge files of one kind")
    found = imatrix.merge([imatrix.read(path) for path in others])
    imatrix.write(found, out)
    _report(found, out, None, "")


def _type_of(path: Path) -> str:
    """Return the `general.type` of a file; "" if it is not GGUF or has none."""
    try:
        return str(read_header(path).value("general.type", ""))
    except GgufError:
        return ""


def _report(found: Imatrix, out: Path, moments: Path | None, rounding: str) -> None:
    output.echo(f"{out}  {len(found.entries)} tensors, {found.chunks} chunks of {found.chunk_size} tokens")
    use = f"--imatrix {shlex.quote(str(out))}"
    if moments is not None:
        output.echo(f"{moments}  second moments")
        use = f"--rounding {rounding} --moments {shlex.quote(str(moments))}"
    output.advise(f"Use it: qwen35 convert CHECKPOINT -q Q4_K_M {use}")
    size = {"chunks": found.chunks, "chunk_size": found.chunk_size}
    emitted: dict[str, Any] = {"file": str(out), "tensors": len(found.entries), "datasets": found.datasets}
    output.emit(emitted | size | ({"moments": str(moments)} if moments is not None else {}))
