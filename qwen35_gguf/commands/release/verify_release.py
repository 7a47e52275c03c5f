"""Make a release again, and compare every byte."""

from __future__ import annotations

from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.commands import output
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.release import verify_release


@click.command("verify-release", cls=Verb)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--against", required=True, help="The checkpoint: a directory or a Hub id.")
@click.option("--revision", default="", help="Branch, tag or commit on the Hub.")
@click.option("--moments", type=click.Path(path_type=Path), help="Of a release with --rounding: its moments.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads; 0 for one a core.")
def command(folder: Path, against: str, revision: str, moments: Path | None, jobs: int) -> None:
    """Make the release in FOLDER again and compare every byte; exit code 0 if all are the same, 1 otherwise."""
    problems = verify_release.verify(
        folder, against, revision=revision, moments=str(moments or ""), jobs=jobs, say=progress.say
    )
    for problem in problems:
        output.echo(f"FAIL {problem}")
    output.echo(f"{folder}: {'PASS' if not problems else f'FAIL, {len(problems)} differences'}")
    output.emit({"folder": str(folder), "passed": not problems, "problems": problems})
    if problems:
        raise SystemExit(1)
