"""Measure the KL divergence that quantizing each tensor costs."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from qwen35_gguf import progress
from qwen35_gguf.atomic_file import check_output
from qwen35_gguf.commands import given, output
from qwen35_gguf.commands.conversion_options import rounding_options
from qwen35_gguf.commands.parameter_types import named_type, tokens
from qwen35_gguf.commands.text_option import texts_option
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.convert.rounding import open_rounding
from qwen35_gguf.errors import CostsError, OutputError
from qwen35_gguf.evaluation import collect_imatrix, collect_moments, sensitivity
from qwen35_gguf.evaluation.quantized_weights import Quantizing
from qwen35_gguf.evaluation.texts.packaged import CALIBRATION
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.quant import imatrix as matrices
from qwen35_gguf.quant.recipe_file import split_name
from qwen35_gguf.quant.rounding.moments import Kind
from qwen35_gguf.quant.search import costs as files
from qwen35_gguf.quant.search.costs import Costs, Type
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.model_files import model_identity

PATH = click.Path(path_type=Path)
SAVE_SECONDS = 20


def _weight_types(text: str) -> tuple[Type, ...]:
    """Read types of weights, separated by commas."""
    names = [name.strip().upper() for name in text.split(",")]
    for name in names:
        if name not in Type.__members__:
            raise click.BadParameter(f"{name!r} is not a type of weights, such as Q4_K")
    return tuple(Type.__members__[name] for name in names)


TYPES = named_type("types", _weight_types)


@click.command("sensitivity", cls=Verb)
@click.argument("file", metavar="REFERENCE", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The JSON to be written; an existing one is completed.")
@texts_option("Text to measure on", default="the packaged calibration text")
@click.option("--imatrix", type=PATH, help="The importance matrix of the conversion.")
@rounding_options("block", "full")
@click.option(
    "--types",
    type=TYPES,
    default=",".join(t.name for t in sensitivity.TYPES),
    show_default=True,
    help="Types to try, separated by commas.",
)
@click.option("--chunk", type=tokens(16, 32768), default=256, show_default=True, help="Tokens per chunk; half count.")
@click.option("--chunks", type=click.IntRange(min=1), default=4, show_default=True)
@click.option(
    "--once", is_flag=True, help="Measure each tensor in one type; the others by the weighted errors of the weights."
)
@click.option("--estimate", is_flag=True, help="Estimate from the weighted errors of the weights, without evaluating.")
@click.option("--threads", type=click.IntRange(min=1), help="By default one for each physical core.")
@click.pass_context
def command(
    ctx: click.Context,
    file: Path,
    out: Path,
    texts: tuple[Path, ...],
    imatrix: Path | None,
    rounding: Kind | None,
    moments: Path | None,
    types: tuple[Type, ...],
    chunk: int,
    chunks: int,
    once: bool,
    estimate: bool,
    threads: int | None,
) -> None:
    """Measure what each tensor of REFERENCE (F32, F16 or BF16) costs in each type, when only it is quantized.

    Run the same command again to resume.
    """
    if estimate:
        given.refuse(ctx, ("texts", "chunk", "chunks", "once"), "with --estimate: no text is evaluated")
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent}: is not a directory; create it first")
    check_output(out, inputs=[file, imatrix, moments, *texts], force=True)  # an existing one is completed
    split = splitter(texts, CALIBRATION)
    threads = threads or default_threads()
    weights = matrices.read(imatrix) if imatrix else None
    collect_imatrix.check_same_model([weights] if weights else [], file)
    rounded = open_rounding(rounding, moments)
    if rounded is not None:
        collect_moments.check_same_model(rounded.moments, file)
    how = Quantizing(weights, rounded, threads)
    mode = "estimate" if estimate else "once" if once else ""
    found = _begun(file, out, texts, how, (chunk, chunks), mode)
    found.imatrix, found.rounding, found.moments = str(imatrix or ""), rounding or "", str(moments or "")
    known = {(cost.tensor, cost.type): cost for cost in found.costs}
    saved = time.monotonic()
    with progress.steps() as bar:
        advance = progress.counted(bar, file.name)
        if estimate:
            made = sensitivity.estimate(file, how=how, types=types, advance=advance)
        else:
            made = sensitivity.measure(
                file,
                split,
                how=how,
                types=types,
                known=known,
                once=once,
                chunk=chunk,
                chunks=chunks,
                advance=advance,
            )
        try:
            for cost in made:
                found.costs.append(cost)
                if time.monotonic() - saved > SAVE_SECONDS:
                    files.write(found, out)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            files.write(found, out)
            raise
    files.write(found, out)
    show(output.console(), found)
    output.echo(out)
    output.advise(f"Use it: qwen35 recipe {shlex.quote(str(out))} --target-bpw 4.5 -o recipe.yaml")
    output.emit({"file": str(out), "measured": found.measured, "sums": sums_by_kind(found)})


def _begun(file: Path, out: Path, texts: Sequence[Path], how: Quantizing, size: tuple[int, int], mode: str) -> Costs:
    """Describe the reference, with the costs of an interrupted run."""
    digests = [hashlib.sha256(text.read_bytes()).hexdigest() for text in texts]
    inputs = [
        model_identity(file),
        digests[0] if len(digests) == 1 else digests or "None",
        how.imatrix.sha256 if how.imatrix else "",
        size,
        mode == "estimate",
        *([f"{how.rounding.kind} {how.rounding.moments.digest}"] if how.rounding else []),
        *([mode] if mode == "once" else []),
    ]
    identity = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    new = sensitivity.describe(file, identity, measured=mode != "estimate")
    if not out.exists():
        return new
    before = files.read(out)
    if before.identity != new.identity:
        raise CostsError(f"{out}: is of another model, text, importance matrix or rounding; give another name with -o")
    return before


def sums_by_kind(found: Costs) -> dict[str, dict[str, float]]:
    """Sum the divergences of each kind of tensor, by type."""
    sums: dict[str, dict[str, float]] = {}
    for cost in found.costs:
        kind, layer = split_name(cost.tensor, found.layers)
        row = sums.setdefault(f"mtp.{kind}" if layer == -1 else kind, {})
        row[cost.type.name] = row.get(cost.type.name, 0.0) + cost.divergence
    return sums


def show(console: Console, found: Costs) -> None:
    """Print the sum of each kind's costs, a column a type, the most sensitive kind first."""
    types = [type_.name for type_ in sorted({cost.type for cost in found.costs}, key=lambda t: t.value)]
    table = Table(box=None, pad_edge=False)
    table.add_column("divergence, nats x 1000")
    for type_ in types:
        table.add_column(type_, justify="right")
    for name, row in sorted(sums_by_kind(found).items(), key=lambda item: -max(item[1].values())):
        table.add_row(name, *(f"{1000 * row[t]:.3f}" if t in row else "" for t in types))
    console.width = max(console.width, 110)
    console.print(table)
