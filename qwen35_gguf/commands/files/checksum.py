"""Verify or write a folder's SHA256SUMS."""

from __future__ import annotations

from pathlib import Path

import click

from qwen35_gguf import progress
from qwen35_gguf.commands import output
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.release import checksums

DIFFERENT = 1


@click.command("checksum", cls=Verb)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--write", is_flag=True, help="Write SHA256SUMS instead of verifying it.")
@click.option("--force", is_flag=True, help="With --write: replace an existing SHA256SUMS.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads; 0 for one a core.")
def command(folder: Path, write: bool, force: bool, jobs: int) -> None:
    """Verify the files of FOLDER against its SHA256SUMS; exit code 0 if none differs, 1 otherwise."""
    files = checksums.listed_files(folder)
    if write:
        with progress.progress(sum(path.stat().st_size for path in files), folder.name) as advance:
            written = checksums.write(folder, force=force, jobs=jobs, advance=advance)
        output.echo(written)
        output.emit({"list": str(written), "files": len(files)})
        return
    expected = checksums.read_list(folder)
    listed = [path for path in files if path.relative_to(folder).as_posix() in expected]
    with progress.progress(sum(path.stat().st_size for path in listed), folder.name) as advance:
        verdicts = checksums.verify(folder, jobs=jobs, advance=advance)
    unlisted = [path.relative_to(folder).as_posix() for path in sorted(set(files) - set(listed))]
    for verdict in verdicts:
        output.echo(f"{verdict.name}: {verdict.problem or 'OK'}")
    for name in unlisted:
        output.note(f"note: {name} is not in {checksums.LIST}")
    output.emit(
        {"folder": str(folder), "files": {verdict.name: verdict.problem for verdict in verdicts}, "unlisted": unlisted}
    )
    if any(verdict.problem for verdict in verdicts):
        raise SystemExit(DIFFERENT)
