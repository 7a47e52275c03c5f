"""Measure the KL divergence and perplexity of quantized files."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from qwen35_gguf import progress
from qwen35_gguf.atomic_file import check_output
from qwen35_gguf.commands import given, output
from qwen35_gguf.commands.parameter_types import tokens
from qwen35_gguf.commands.text_option import texts_option
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.evaluation import kl_divergence, logits_file
from qwen35_gguf.evaluation.size_plot import Point, check_plot, draw
from qwen35_gguf.evaluation.texts.packaged import EVALUATION
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.quant.divergence import Divergence, Figure
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.units import format_file_size

PATH = click.Path(path_type=Path)
OF_REFERENCE = ("texts", "chunk", "chunks", "save_logits")  # what the reference is evaluated with


@click.command("evaluate", cls=Verb)
@click.argument("files", metavar="MODEL...", nargs=-1, type=PATH)
@click.option("--reference", type=PATH, required=True, help="The GGUF to compare with, or a file of --save-logits.")
@texts_option("Text to be predicted")
@click.option(
    "--chunk",
    type=tokens(16, 32768),
    default=512,
    show_default=True,
    help="Tokens per chunk; half are scored.",
)
@click.option("--chunks", type=click.IntRange(min=1), help="Number of chunks at most; by default the whole text.")
@click.option("--save-logits", type=PATH, help="Keep the log-probabilities of the reference, as llama-perplexity does.")
@click.option("--plot", type=PATH, help="Plot size against KL divergence: NAME.png and NAME.svg.")
@click.option("--force", is_flag=True, help="Replace existing files of --save-logits and --plot.")
@click.option("--threads", type=click.IntRange(min=1), help="By default one for each physical core.")
@click.pass_context
def command(
    ctx: click.Context,
    files: tuple[Path, ...],
    reference: Path,
    texts: tuple[Path, ...],
    chunk: int,
    chunks: int | None,
    save_logits: Path | None,
    plot: Path | None,
    force: bool,
    threads: int | None,
) -> None:
    """Compare each MODEL with a reference: perplexity, KL divergence, and how often the most likely token is the same.

    The reference is evaluated once. The figures equal those of llama-perplexity --kl-divergence on the same chunks.
    """
    if not files and save_logits is None:
        raise click.UsageError("name at least one MODEL to compare, or --save-logits")
    if not files:
        given.refuse(ctx, ["plot"], "without a MODEL to compare")
    made_before = logits_file.is_logits(reference)
    if made_before:
        given.refuse(ctx, OF_REFERENCE, "with a file of logits as the reference, which has its text and chunks")
    split = splitter(texts, EVALUATION)
    plots = check_plot(plot) if plot else []
    made = [*([save_logits] if save_logits else []), *plots]
    for path in made:
        check_output(path, inputs=[reference, *files, *texts], force=force)
    kl_divergence.check_vocabularies(files, reference)
    threads = threads or default_threads()
    with tempfile.TemporaryDirectory(prefix="qwen35-") as folder, progress.steps() as bar:
        if made_before:
            kept = reference
        else:
            kept = save_logits or Path(folder) / "reference"
            kl_divergence.save_reference(
                reference,
                split,
                kept,
                chunk=chunk,
                chunks=chunks,
                threads=threads,
                advance=progress.counted(bar, f"{reference.name}, chunks"),
            )
        found = [
            (
                file,
                kl_divergence.evaluate(
                    file, kept, threads=threads, advance=progress.counted(bar, f"{file.name}, chunks")
                ),
            )
            for file in files
        ]
    records = [record(file, divergence) for file, divergence in found]
    if found:
        console = output.console()
        if not console.is_terminal:
            console.width = max(console.width, 132)
        show(console, found)
    output.emit({"reference": str(reference), "models": records, "files": [str(path) for path in made]})
    if plot:
        draw([point(one) for one in records], plot, f"KL divergence from {reference.name}")
    for path in made:
        output.echo(path)


def record(file: Path, divergence: Divergence) -> dict[str, Any]:
    """Return one file's figures as JSON."""
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "bits_per_weight": kl_divergence.bits_per_weight(file),
        **divergence.to_dict(),
    }


def point(one: dict[str, Any]) -> Point:
    """Return the point of a record in the plot."""
    mean = one["mean"]
    return Point(Path(one["file"]).stem, one["bits_per_weight"], mean["value"], mean["low"], mean["high"])


def show(console: Console, found: list[tuple[Path, Divergence]]) -> None:
    """Print the table, or where it is wider than the terminal a paragraph for each file.

    ± is half of the 95 % confidence interval.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("", "size", "bits", "perplexity", "ratio", "mean KLD", "median", "99.9 %", "same top"):
        table.add_column(name, justify="left" if not name else "right")
    for file, one in found:
        ratio = one.log_ratio
        table.add_row(
            file.name,
            format_file_size(file.stat().st_size),
            f"{kl_divergence.bits_per_weight(file):.2f}",
            _both(one.perplexity, 3),
            f"{math.exp(ratio.value):.4f}",
            _both(one.mean, 5),
            _number(one.median.value, 5),
            f"{one.p999.value:.4f}",
            f"{_both(one.same_top, 2, 100)} %",
        )
    if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
        console.print(table)
    else:
        for file, one in found:
            console.print(_paragraph(file, one), highlight=False, soft_wrap=True)
    one = found[0][1]
    console.print(
        f"{one.tokens} tokens; perplexity of the reference {_both(one.reference_perplexity, 3)}; "
        "± is the 95 % confidence interval",
        highlight=False,
    )


def _paragraph(file: Path, one: Divergence) -> str:
    size, bits = format_file_size(file.stat().st_size), kl_divergence.bits_per_weight(file)
    return (
        f"{file.name}  {size}, {bits:.2f} bits per weight\n"
        f"  perplexity {_both(one.perplexity, 3)}, ratio {math.exp(one.log_ratio.value):.4f}\n"
        f"  KL divergence: mean {_both(one.mean, 5)}, median {_number(one.median.value, 5)}, "
        f"99.9 % {one.p999.value:.4f}\n"
        f"  same top token {_both(one.same_top, 2, 100)} %"
    )


def _both(figure: Figure, digits: int, scale: float = 1) -> str:
    half = (figure.high - figure.low) / 2
    return f"{_number(scale * figure.value, digits)} ± {_number(scale * half, digits)}"


def _number(value: float, digits: int) -> str:
    """Write a number; one that rounds to zero has no sign."""
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text
