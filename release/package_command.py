"""`qwen35 package`: what a publisher uploads, in one command."""

from __future__ import annotations

from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.command_errors import reports_errors
from qwen35_gguf.release import package
from qwen35_gguf.release.package import Options
from qwen35_gguf.release.sizes import size as parse_size

PATH = click.Path(path_type=Path)


@click.command("package")
@click.argument("model")
@click.option("-o", "--out", type=PATH, required=True, help="The release's folder: empty, or begun before.")
@click.option("--quants", default="Q4_K_M,Q5_K_M,Q8_0", show_default=True, help="llama.cpp's names, by commas.")
@click.option("--imatrix", type=PATH, help="Importance matrix, of `qwen35 imatrix`.")
@click.option("--recipe", default="", help="deltanet: for all quants that it has one for.")
@click.option("--mmproj-types", default="BF16", show_default=True, help="BF16, F16, Q8_0, F32, by commas.")
@click.option("--plain", is_flag=True, help="Also files without the MTP head.")
@click.option("--heads", is_flag=True, help="Also the MTP head alone, mtp-*.gguf, as a draft model.")
@click.option("--max-shard-size", type=parse_size, default="48GB", show_default=True, help="Larger files are split.")
@click.option("--no-measure", is_flag=True, help="Do not measure divergence.")
@click.option("-f", "--text", type=PATH, help="Text for it; by default one that comes with the package.")
@click.option("--license", "license_", default="", help="Of the model; by default the checkpoint's.")
@click.option("--base-model", default="", help="Its id on the Hub; by default MODEL, if it is one.")
@click.option("--revision", default="", help="Branch, tag or commit on the Hub.")
@click.option("--name", default="", help="The model's name; by default derived from the checkpoint.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads; 0 for one a core.")
@reports_errors
def command(
    model: str,
    out: Path,
    quants: str,
    imatrix: Path | None,
    recipe: str,
    mmproj_types: str,
    plain: bool,
    heads: bool,
    max_shard_size: int,
    no_measure: bool,
    text: Path | None,
    license_: str,
    base_model: str,
    revision: str,
    name: str,
    jobs: int,
) -> None:
    """Make a release of MODEL, a checkpoint or a Hub id: all quants, towers, card, plot, checksums.

    Interrupted, the same command goes on; what is finished is kept.
    """
    options = Options(
        model=model,
        quants=tuple(part.strip() for part in quants.split(",") if part.strip()),
        revision=revision,
        name=name,
        recipe=recipe,
        imatrix=str(imatrix) if imatrix else "",
        mmproj_types=tuple(part.strip().upper() for part in mmproj_types.split(",") if part.strip()),
        plain=plain,
        heads=heads,
        max_shard_size=max_shard_size,
    )
    for path in package.package(
        options,
        out,
        text=text,
        measure=not no_measure,
        license_=license_,
        base_model=base_model,
        jobs=jobs,
        say=progress.say,
    ):
        click.echo(f"{path}  {path.stat().st_size / 1e6:,.1f} MB")
    click.echo(f"Upload it: qwen35 publish {out} --repo USER/NAME")
