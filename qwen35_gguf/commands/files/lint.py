"""Find what would break a GGUF file for its users."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.commands import output
from qwen35_gguf.commands.first_contact import completion
from qwen35_gguf.commands.hub_argument import headers
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.release.lint import check_file
from qwen35_gguf.release.lint.diagnostic import Diagnostic

FOUND = 1


@click.command("lint", cls=Verb)
@click.argument("file", type=click.Path(path_type=Path), shell_complete=completion.models)
@click.option("--mmproj", type=click.Path(path_type=Path), help="The vision encoder; by default those beside FILE.")
@click.option("--no-values", is_flag=True, help="Read the headers only, not the weights.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads; 0 for one a core.")
def command(file: Path, mmproj: Path | None, no_values: bool, jobs: int) -> None:
    """Find what would break FILE for its users; exit code 1 if there is an error, 0 otherwise.

    Of USER/NAME:QUANT on the Hub the headers are read and not the weights; nothing is downloaded.
    """
    with headers(file) as remote:
        if remote is not None:
            files, name = remote
            _report(name, check_file.lint(check_file.read_subject(files.model, mmproj), values=False))
            return
    model = check_file.read_subject(file, mmproj)
    if no_values:
        diagnostics = check_file.lint(model, values=False)
    else:
        total = sum(stored.tensor.nbytes for stored in model.tensors.values())
        with progress.progress(total, file.name) as advance:
            diagnostics = check_file.lint(model, jobs=jobs, advance=advance)
    _report(str(file), diagnostics)


def _report(file: str, diagnostics: Sequence[Diagnostic]) -> None:
    """Print what was found; errors end the command with an exit code of their own."""
    errors = sum(one.severity == "error" for one in diagnostics)
    for one in diagnostics:
        output.echo(f"{one.severity}: {one.check}: {one.where}: {one.what}; {one.advice}")
    output.echo(f"{file}: {_summary(errors, len(diagnostics))}")
    output.emit({"file": file, "errors": errors, "findings": [dataclasses.asdict(one) for one in diagnostics]})
    if errors:
        raise SystemExit(FOUND)


def _summary(errors: int, total: int) -> str:
    if not total:
        return "clean"
    return (
        f"{errors or 'no'} error{'s' * (errors != 1)}, {total - errors} other diagnostic{'s' * (total - errors != 1)}"
    )
