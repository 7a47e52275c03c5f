"""List or change the metadata of a GGUF file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from qwen35_gguf import bounded_file
from qwen35_gguf.commands import output
from qwen35_gguf.commands.metadata_text import plain, shorten
from qwen35_gguf.commands.verb import VerbGroup
from qwen35_gguf.errors import MetadataError
from qwen35_gguf.gguf_file import header_change
from qwen35_gguf.gguf_file.keyvalue import STRING, KeyValue
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release import metadata_edit

LARGEST = 1 << 26  # bytes of a value

out_option = click.option("-o", "--out", type=click.Path(path_type=Path), help="Change a copy instead of the file.")
force_option = click.option(
    "--force", is_flag=True, help="Replace an existing copy; change keys that describe the tensors."
)


@click.group("metadata", cls=VerbGroup, invoke_without_command=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def command(ctx: click.Context, file: Path) -> None:
    """List the metadata of FILE, or change it with set and unset; `get` prints one whole value."""
    ctx.obj = file
    if header_change.finish(file):
        output.note(f"{file}: a change that was interrupted is finished now")
    if ctx.invoked_subcommand is None:
        entries = read_header(file).entries
        for entry in entries:
            output.echo(f"{entry.key}  {_kind(entry)}  {shorten(entry)}")
        output.emit({entry.key: {"type": _kind(entry), "value": entry.value} for entry in entries})


@command.command("get")
@click.argument("key")
@click.pass_obj
def get(file: Path, key: str) -> None:
    """Print the value of KEY: text unchanged, anything else as JSON."""
    entry = read_header(file).find(key)
    if entry is None:
        raise MetadataError(f"{file}: has no {key}; `qwen35 metadata FILE` lists what it has")
    value = plain(entry)
    text = value if entry.type == STRING else json.dumps(value, ensure_ascii=False)
    output.echo(text, newline=entry.type != STRING or sys.stdout.isatty())
    output.emit({"key": key, "type": _kind(entry), "value": value})


@command.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--file", "from_file", is_flag=True, help="VALUE is the name of a file with the value.")
@click.option("--type", "kind", help="For a new key: uint32, float32, bool, string, array[int32] and so on.")
@out_option
@force_option
@click.pass_obj
def set_value(
    file: Path, key: str, value: str, from_file: bool, kind: str | None, out: Path | None, force: bool
) -> None:
    """Set KEY to VALUE; an existing key keeps its type."""
    if from_file:
        try:
            # No newline translation: the value is the exact content of the file.
            value = bounded_file.read_bytes(Path(value), LARGEST).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MetadataError(f"{value}: cannot be read as text ({error})") from None
    layout = read_header(file)
    if not force:
        metadata_edit.check_harmless(layout, key)
    entry = metadata_edit.new_entry(layout, key, value, metadata_edit.parse_kind(kind) if kind else None)
    _report(metadata_edit.change(file, replace=[entry], copy=out, force=force))


@command.command("unset")
@click.argument("key")
@out_option
@force_option
@click.pass_obj
def unset(file: Path, key: str, out: Path | None, force: bool) -> None:
    """Remove KEY."""
    if not force:
        metadata_edit.check_harmless(read_header(file), key)
    _report(metadata_edit.change(file, remove=[key], copy=out, force=force))


def _kind(entry: KeyValue) -> str:
    return str(metadata_edit.Kind(entry.type, entry.element))


def _report(changed: Path) -> None:
    output.echo(changed)
    output.emit({"file": str(changed)})
