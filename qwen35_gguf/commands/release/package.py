"""Make a release: several quants, model card, checksums."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.commands import given, output
from qwen35_gguf.commands.conversion_options import adapter_options, rounding_options
from qwen35_gguf.commands.names.aliases import renamed_option
from qwen35_gguf.commands.parameter_types import SIZE
from qwen35_gguf.commands.text_option import texts_option
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.quant.rounding.moments import Method
from qwen35_gguf.release import package
from qwen35_gguf.release.from_gguf import FromGguf
from qwen35_gguf.release.package import PackageOptions
from qwen35_gguf.release.plan import FromCheckpoint
from qwen35_gguf.units import format_file_size

PATH = click.Path(path_type=Path)
OF_CHECKPOINTS = (
    *("quants", "recipe", "mmproj_types", "no_mtp", "no_vision", "mtp_files", "nomtp_files", "rounding", "moments"),
    *("revision", "ignore_config", "adapters", "adapter_scales"),
)
FREE = ("revision", "moments")  # with --add
OF_RELEASE = ("imatrix", "max_shard_size", "name", "reference", *(one for one in OF_CHECKPOINTS if one not in FREE))


@click.command("package", cls=Verb)
@click.argument("models", metavar="MODEL_OR_GGUFS...", nargs=-1, required=True)
@click.option("-o", "--out", type=PATH, required=True, help="Folder of the release: empty, or of an interrupted one.")
@click.option("--quants", default="Q4_K_M,Q5_K_M,Q8_0", show_default=True, help="Presets, separated by commas.")
@click.option("--add", "added", help="Add these presets to the finished release in the folder; its options stay.")
@click.option("--imatrix", type=PATH, help="Importance matrix, made by `qwen35 imatrix`.")
@rounding_options("block", "full", "sequential")
@click.option("--recipe", default="", help="deltanet: for all quants that it has a table for.")
@click.option("--mmproj-types", default="BF16", show_default=True, help="BF16, F16, Q8_0, F32, separated by commas.")
@click.option("--no-mtp", is_flag=True, help="Leave out the multi-token-prediction head.")
@click.option("--no-vision", is_flag=True, help="Leave out the vision encoder.")
@renamed_option("--mtp-files", old=["--heads"], is_flag=True, help="Also write mtp-*.gguf: the MTP head alone.")
@renamed_option("--nomtp-files", old=["--plain"], is_flag=True, help="Also write *-nomtp-*.gguf: no MTP head.")
@click.option("--max-shard-size", type=SIZE, default="48GB", show_default=True, help="Split larger files.")
@click.option("--no-measure", is_flag=True, help="Do not measure KL divergence.")
@click.option("--reference", type=PATH, help="With GGUF files: the unquantized weights, if they are not among them.")
@texts_option("Text to measure on")
@click.option("--no-lint", is_flag=True, help="Keep files that would break for their users.")
@click.option("--license", "license_", default="", help="License of the model; by default the checkpoint's.")
@click.option("--base-model", default="", help="Id of the base model on the Hub; by default MODEL, if that is an id.")
@click.option("--revision", default="", help="Branch, tag or commit on the Hub.")
@click.option("--name", default="", help="The model's name; by default derived from the checkpoint.")
@click.option("--ignore-config", metavar="KEY", multiple=True, help="Read config.json as if it had no KEY; repeatable.")
@adapter_options
@click.option("--force", is_flag=True, help="Replace files of the release that were changed, or came from elsewhere.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads; 0 for one a core.")
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    out: Path,
    quants: str,
    added: str | None,
    imatrix: Path | None,
    rounding: Method | None,
    moments: Path | None,
    recipe: str,
    mmproj_types: str,
    no_mtp: bool,
    no_vision: bool,
    mtp_files: bool,
    nomtp_files: bool,
    max_shard_size: int,
    no_measure: bool,
    reference: Path | None,
    texts: tuple[Path, ...],
    no_lint: bool,
    license_: str,
    base_model: str,
    revision: str,
    name: str,
    ignore_config: tuple[str, ...],
    adapters: tuple[str, ...],
    adapter_scales: tuple[float, ...],
    force: bool,
    jobs: int,
) -> None:
    """Make a release of a checkpoint (a directory or a Hub id), or of existing GGUF files.

    A checkpoint is converted to all quants in one pass; with vision encoder, model card, plot and checksums. Existing
    GGUF files are named by the convention, split if they are too large, and described; their bytes stay. Run the same
    command again to resume an interrupted release. Files that the release did not make are refused, and an edited card
    is kept: only its parts between marks are made again.
    """
    if no_measure:
        given.refuse(ctx, ("texts", "reference"), "with --no-measure")
    options = PackageOptions(
        text=texts, measure=not no_measure, lint=not no_lint, license=license_, base_model=base_model, force=force
    )
    if added is not None:
        if len(models) > 1 or models[0].endswith(".gguf"):
            raise click.UsageError("--add is for the release of a checkpoint: give that checkpoint")
        given.refuse(ctx, OF_RELEASE, "with --add: the release has its options already")
        made = package.add(
            out,
            models[0],
            _listed(added),
            options,
            revision=revision,
            moments=str(moments or ""),
            jobs=jobs,
            say=progress.say,
        )
        _report(out, made)
        return
    source: FromCheckpoint | FromGguf
    ggufs = [model for model in models if model.endswith(".gguf")]
    if ggufs:
        if len(ggufs) < len(models):
            raise click.UsageError("give one checkpoint, or GGUF files, not both")
        for option in OF_CHECKPOINTS:
            if given.is_given(ctx, option):
                raise click.UsageError(f"--{option.replace('_', '-')} is for a checkpoint: GGUF files stay as they are")
        source = FromGguf(
            files=models,
            name=name,
            imatrix=str(imatrix or ""),
            reference=str(reference or ""),
            max_shard_size=max_shard_size,
        )
    else:
        if len(models) > 1:
            raise click.UsageError("give one checkpoint; the names of several files must end in .gguf")
        if reference is not None:
            raise click.UsageError("--reference is for GGUF files: a checkpoint has the unquantized weights itself")
        source = FromCheckpoint(
            model=models[0],
            quants=_listed(quants),
            revision=revision,
            name=name,
            recipe=recipe,
            imatrix=str(imatrix or ""),
            rounding=rounding or "",
            moments=str(moments or ""),
            mtp=not no_mtp,
            mmproj_types=() if no_vision else tuple(type_.upper() for type_ in _listed(mmproj_types)),
            mtp_files=mtp_files,
            nomtp_files=nomtp_files,
            max_shard_size=max_shard_size,
            ignore_config=ignore_config,
            adapters=adapters,
            adapter_scales=adapter_scales,
        )
    _report(out, package.package(source, out, options, jobs=jobs, say=progress.say))


def _report(out: Path, made: list[Path]) -> None:
    for path in made:
        output.echo(f"{path}  {format_file_size(path.stat().st_size)}")
    output.advise(f"Upload it: qwen35 publish {shlex.quote(str(out))} --repo USER/NAME")
    output.emit({"folder": str(out), "files": [{"file": str(p), "bytes": p.stat().st_size} for p in made]})


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
