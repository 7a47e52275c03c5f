"""Find what would break a GGUF file for its users."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.release.lint import check_file

FOUND = 1


@click.command("lint")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--mmproj", type=click.Path(path_type=Path), help="The vision encoder; by default those beside FILE.")
@click.option("--no-values", is_flag=True, help="Read the headers only, not the weights.")
@click.option("--json", "as_json", is_flag=True, help="Print an object instead of lines.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads; 0 for one a core.")
@reports_errors
def command(file: Path, mmproj: Path | None, no_values: bool, as_json: bool, jobs: int) -> None:
    """Find what would break FILE for its users; exit code 1 if there is an error, 0 otherwise."""
    model = check_file.read_subject(file, mmproj)
    if no_values:
        diagnostics = check_file.lint(model, values=False)
    else:
        total = sum(stored.tensor.nbytes for stored in model.tensors.values())
        with progress.progress(total, file.name) as advance:
            diagnostics = check_file.lint(model, jobs=jobs, advance=advance)
    errors = sum(one.severity == "error" for one in diagnostics)
    if as_json:
        report = {"file": str(file), "errors": errors, "findings": [dataclasses.asdict(one) for one in diagnostics]}
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for one in diagnostics:
            click.echo(f"{one.severity}: {one.check}: {one.where}: {one.what}; {one.advice}")
        click.echo(f"{file}: {_summary(errors, len(diagnostics))}")
    if errors:
        raise SystemExit(FOUND)


def _summary(errors: int, total: int) -> str:
    if not total:
        return "clean"
    return (
        f"{errors or 'no'} error{'s' * (errors != 1)}, {total - errors} other diagnostic{'s' * (total - errors != 1)}"
    )
