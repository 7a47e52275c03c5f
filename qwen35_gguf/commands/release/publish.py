"""Upload a release folder to the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from qwen35_gguf.commands import output
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.errors import PublishError
from qwen35_gguf.release import publish
from qwen35_gguf.units import format_file_size


@click.command("publish", cls=Verb)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--repo", required=True, help="The repository: user/name.")
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option("--dry-run", is_flag=True, help="List the files without uploading them.")
def command(folder: Path, repo: str, private: bool, dry_run: bool) -> None:
    """Upload FOLDER, made by `qwen35 package`. Run the same command again to resume."""
    if dry_run:
        if not publish.REPO.fullmatch(repo):
            raise PublishError(f"--repo {repo}: is not a name such as user/Qwen3.5-9B-GGUF")
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in publish.listed(folder)}
        for name, size in sizes.items():
            output.echo(f"{name}  {format_file_size(size)}")
        output.echo(f"{format_file_size(sum(sizes.values()))} to be uploaded to {repo}; nothing was sent")
        output.emit({"repo": repo, "sent": False, "files": sizes})
        return
    address = publish.publish(folder, repo, private=private)
    output.echo(address)
    output.emit({"repo": repo, "sent": True, "address": address})
