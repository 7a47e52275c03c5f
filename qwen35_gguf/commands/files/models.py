"""List the models that this machine has, and remove some."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from qwen35_gguf.commands import output
from qwen35_gguf.commands.first_contact import completion
from qwen35_gguf.commands.models_folder import MODELS_FOLDER
from qwen35_gguf.commands.verb import VerbGroup
from qwen35_gguf.errors import ModelError
from qwen35_gguf.hub.names import parse_name
from qwen35_gguf.hub.stored_models import StoredModel, in_cache, in_folder, remove
from qwen35_gguf.units import format_file_size, format_size

DAY = 86400
AGES = ((365 * DAY, "year"), (30 * DAY, "month"), (7 * DAY, "week"), (DAY, "day"), (3600, "hour"), (60, "minute"))


@click.group("models", cls=VerbGroup, invoke_without_command=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=MODELS_FOLDER,
    show_default=True,
    help="Of converted models.",
)
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """List the models in the cache of the Hub and in a folder, with size and last use; `rm` removes some."""
    ctx.obj = folder
    if ctx.invoked_subcommand is not None:
        return
    found = [*in_cache(), *in_folder(folder)]
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        kind = "" if one.kind == "model" else f"  {one.kind}"
        output.echo(f"{one.name:<{width}}  {format_file_size(one.size):>12}  {_age(time.time() - one.last_use)}{kind}")
    if found:
        output.advise(f"{format_size(sum(one.size for one in found))} in total; `qwen35 models rm NAME` removes one")
    else:
        output.advise(f"none in the cache of the Hub, none in {folder}; `qwen35 run USER/NAME` downloads one")
    output.emit({"models": [_record(one) for one in found]})


@command.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=completion.models)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rm(folder: Path, names: tuple[str, ...], yes: bool) -> None:
    """Remove models: USER/NAME:QUANT, USER/NAME for all of a repository, or a path as it is listed."""
    known = [*in_cache(), *in_folder(folder)]
    found = list(dict.fromkeys(one for name in names for one in _named(name, known)))
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked; give --yes")
        for one in found:
            click.echo(f"{one.name}  {format_size(one.size)}", err=True)
        click.confirm("Remove?", abort=True, err=True)
    freed = remove(found)
    output.echo(f"removed {', '.join(one.name for one in found)}: {format_size(freed)}")
    output.emit({"removed": [_record(one) for one in found], "freed": freed})


def _named(name: str, known: list[StoredModel]) -> list[StoredModel]:
    """Find what a name stands for.

    Raises:
        ModelError: nothing.

    """
    found = [one for one in known if one.name == name or Path(one.name) == Path(name)]
    hub = parse_name(name)
    if not found and hub is not None:
        wanted = str(hub).lower()
        found = [one for one in known if one.repo and wanted in (one.repo.lower(), one.name.lower())]
    if not found:
        raise ModelError(f"{name}: is not among the models of this machine; `qwen35 models` lists them")
    return found


def _record(model: StoredModel) -> dict[str, object]:
    last_use = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(model.last_use))
    return {
        "name": model.name,
        "kind": model.kind,
        "size": model.size,
        "last_use": last_use,
        "files": [str(file) for file in model.files],
    }


def _age(seconds: float) -> str:
    """Write how long ago something was."""
    for length, name in AGES:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' * (count > 1)} ago"
    return "now"
