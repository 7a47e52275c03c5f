"""Upload a release folder to the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.errors import PublishError
from qwen35_gguf.release import publish
from qwen35_gguf.units import format_file_size


@click.command("publish")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--repo", required=True, help="The repository: user/name.")
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option("--dry-run", is_flag=True, help="List the files without uploading them.")
@reports_errors
def command(folder: Path, repo: str, private: bool, dry_run: bool) -> None:
    """Upload FOLDER, made by `qwen35 package`. Run the same command again to resume."""
    if dry_run:
        if not publish.REPO.fullmatch(repo):
            raise PublishError(f"--repo {repo}: is not a name such as user/Qwen3.5-9B-GGUF")
        total = 0
        for path in publish.listed(folder):
            size = path.stat().st_size
            total += size
            click.echo(f"{path.relative_to(folder)}  {format_file_size(size)}")
        click.echo(f"{format_file_size(total)} to be uploaded to {repo}; nothing was sent")
        return
    click.echo(publish.publish(folder, repo, private=private))
