"""Lend this machine's devices to another."""

from __future__ import annotations

import click

from qwen35_gguf.commands import output
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.llama import rpc
from qwen35_gguf.runtime.llama.devices import is_loopback

WARNING = (
    "warning: {} can be reached by others, and the protocol has no authentication: whoever reaches it can use this "
    "machine's memory and devices; listen on a trusted network only"
)


@click.command("rpc-server", cls=Verb)
@click.option("--listen", default="127.0.0.1:50052", show_default=True, help="host:port, of this machine by default.")
@click.option("--threads", type=click.IntRange(min=1), help="By default one for each physical core.")
def command(listen: str, threads: int | None) -> None:
    """Serve this machine's GPUs, or its CPU, to `--rpc` of run, chat, plan and tune; Ctrl-C ends it."""
    rpc.parse_endpoint(listen)
    if not is_loopback(listen):
        click.echo(WARNING.format(listen), err=True)
    threads = threads or default_threads()
    output.emit({"listen": listen, "threads": threads})
    rpc.serve(listen, threads=threads)
