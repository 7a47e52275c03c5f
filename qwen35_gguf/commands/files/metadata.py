"""List or change the metadata of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.commands.metadata_text import shorten
from qwen35_gguf.errors import MetadataError
from qwen35_gguf.gguf_file.keyvalue import STRING
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release import metadata_edit

out_option = click.option("-o", "--out", type=click.Path(path_type=Path), help="Change a copy instead of the file.")
force_option = click.option("--force", is_flag=True, help="Replace an existing copy.")


@click.group("metadata", invoke_without_command=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
@reports_errors
def command(ctx: click.Context, file: Path) -> None:
    """List the metadata of FILE, or change it with set and unset; `get` prints one whole value."""
    ctx.obj = file
    if ctx.invoked_subcommand is None:
        for entry in read_header(file).entries:
            click.echo(f"{entry.key}  {metadata_edit.Kind(entry.type, entry.element)}  {shorten(entry)}")


@command.command("get")
@click.argument("key")
@click.pass_obj
@reports_errors
def get(file: Path, key: str) -> None:
    """Print the value of KEY: text unchanged, anything else as JSON."""
    entry = read_header(file).find(key)
    if entry is None:
        raise MetadataError(f"{file}: has no {key}; `qwen35 metadata FILE` lists what it has")
    value = entry.value
    click.echo(value if entry.type == STRING else json.dumps(value, ensure_ascii=False), nl=entry.type != STRING)


@command.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--file", "from_file", is_flag=True, help="VALUE is the name of a file with the value.")
@click.option("--type", "kind", help="For a new key: uint32, float32, bool, string, array[int32] and so on.")
@out_option
@force_option
@click.pass_obj
@reports_errors
def set_value(
    file: Path, key: str, value: str, from_file: bool, kind: str | None, out: Path | None, force: bool
) -> None:
    """Set KEY to VALUE; an existing key keeps its type."""
    if from_file:
        try:
            # No newline translation: the value is the exact content of the file.
            value = Path(value).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MetadataError(f"{value}: cannot be read as text ({error})") from None
    entry = metadata_edit.new_entry(read_header(file), key, value, metadata_edit.parse_kind(kind) if kind else None)
    click.echo(metadata_edit.change(file, replace=[entry], copy=out, force=force))


@command.command("unset")
@click.argument("key")
@out_option
@force_option
@click.pass_obj
@reports_errors
def unset(file: Path, key: str, out: Path | None, force: bool) -> None:
    """Remove KEY."""
    click.echo(metadata_edit.change(file, remove=[key], copy=out, force=force))
