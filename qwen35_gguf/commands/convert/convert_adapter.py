"""Convert a PEFT LoRA to a GGUF LoRA."""

from __future__ import annotations

from pathlib import Path

import click

from qwen35_gguf.commands import output
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.convert.adapters.adapter_gguf import TYPES, convert_adapter
from qwen35_gguf.units import format_file_size


@click.command("convert-adapter", cls=Verb)
@click.argument("adapter", metavar="DIR")
@click.option(
    "--base", help="Its model: a directory (config.json suffices), a Hub id or a GGUF; by default the one DIR names."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The file; by default models/NAME-TYPE-LoRA.gguf.")
@click.option(
    "-t",
    "--type",
    "type_",
    type=click.Choice(list(TYPES), case_sensitive=False),
    default="F32",
    show_default=True,
    help="Of the factors.",
)
@click.option("--revision", help="Branch, tag or commit of the base on the Hub.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(adapter: str, base: str | None, out: Path | None, type_: str, revision: str | None, force: bool) -> None:
    """Convert DIR, a PEFT LoRA (a directory or a Hub id), to a GGUF LoRA, which is loaded beside a GGUF of its base."""
    path = convert_adapter(adapter, base, out, type_, revision=revision, force=force)
    output.echo(f"{path}  {format_file_size(path.stat().st_size)}")
    output.advise(f"Run it: qwen35 run BASE.gguf --lora {path} 'Hello'")
    output.emit({"file": str(path), "bytes": path.stat().st_size})
