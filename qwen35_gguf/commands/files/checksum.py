"""Verify or write a folder's SHA256SUMS."""

from __future__ import annotations

from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.release import checksums

DIFFERENT = 1


@click.command("checksum")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--write", is_flag=True, help="Write SHA256SUMS instead of verifying it.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads; 0 for one a core.")
@reports_errors
def command(folder: Path, write: bool, jobs: int) -> None:
    """Verify the files of FOLDER against its SHA256SUMS; exit code 0 if none differs, 1 otherwise."""
    files = checksums.listed_files(folder)
    if write:
        with progress.progress(sum(path.stat().st_size for path in files), folder.name) as advance:
            click.echo(checksums.write(folder, jobs=jobs, advance=advance))
        return
    expected = checksums.read_list(folder)
    listed = [path for path in files if path.relative_to(folder).as_posix() in expected]
    with progress.progress(sum(path.stat().st_size for path in listed), folder.name) as advance:
        verdicts = checksums.verify(folder, jobs=jobs, advance=advance)
    for verdict in verdicts:
        click.echo(f"{verdict.name}: {verdict.problem or 'OK'}")
    for path in sorted(set(files) - set(listed)):
        progress.say(f"note: {path.relative_to(folder)} is not in {checksums.LIST}")
    if any(verdict.problem for verdict in verdicts):
        raise SystemExit(DIFFERENT)
