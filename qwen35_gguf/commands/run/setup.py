"""Install the llama.cpp that fits this machine: a wheel if there is one, else compiled."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import asdict
from pathlib import Path

import click

from qwen35_gguf.cache_dir import cache_dir
from qwen35_gguf.commands import output
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.doctor.engine import Engine, Expected, find_engine
from qwen35_gguf.doctor.engine_sources import Source, Wanted, sources
from qwen35_gguf.doctor.host import Host
from qwen35_gguf.doctor.setup import check_environment, engine_findings, install, install_commands, run_logged
from qwen35_gguf.errors import SetupError

LOG = "setup.log"


@click.command("setup", cls=Verb)
@click.option("--dry-run", is_flag=True, help="Show what would be tried and run, and change nothing.")
@click.option("--reinstall", is_flag=True, help="Also if nothing is wrong with the installed one.")
@click.option("--find-links", multiple=True, help="Folder or page with wheels, instead of the index; may be repeated.")
@click.option("--cuda", metavar="ARCHITECTURE", default="", help="Compile for NVIDIA GPUs, in a clone: 86, 89, native.")
def command(dry_run: bool, reinstall: bool, find_links: tuple[str, ...], cuda: str) -> None:
    """Install the llama.cpp that fits this machine, with the patches of this project.

    It is tried beside what is installed before that is replaced. If nothing is wrong with the installed one, nothing
    is done.
    """
    host, engine, expected = Host(), find_engine(), Expected.here()
    wrong = engine_findings(host, engine, expected)
    record = {"findings": [asdict(finding) for finding in wrong]}
    if not (wrong or reinstall or cuda):
        installed = engine.installed
        assert installed is not None
        output.echo(f"nothing to do: {installed.distribution} {installed.version}, patched, runs on this machine")
        output.emit({**record, "tried": [], "installed": None})
        return
    for finding in wrong:
        output.note(f"{finding.name}: {finding.problem}")
    compiled = _is_compiled_here(engine)
    listed = sources(Wanted(expected, find_links, cuda, compiled))
    if cuda and not listed:
        raise SetupError("--cuda: a build for GPUs needs a clone of the repository; `git clone` it, and run there")
    if dry_run:
        show(listed)
        output.emit({**record, "tried": [asdict(source) for source in listed], "installed": None})
        return
    check_environment()
    log = cache_dir() / LOG
    output.note(f"what the steps print goes to {log}")
    source = install(listed, host, say=output.note, run=run_logged(log), replaces=compiled)
    importlib.invalidate_caches()
    after = engine_findings(host, find_engine(), expected)
    output.echo(f"installed {source.text}")
    for finding in after:
        output.note(f"note: {finding.problem}")
    output.advise("try it: qwen35 run")
    output.emit(
        {
            "findings": [asdict(finding) for finding in after],
            "tried": [asdict(one) for one in listed[: listed.index(source) + 1]],
            "installed": asdict(source),
        }
    )


def _is_compiled_here(engine: Engine) -> bool:
    """Tell whether the installed one is a llama-cpp-python with patches, which is used before any engine."""
    installed = engine.installed
    return installed is not None and not installed.is_engine and bool(installed.patches)


def show(listed: list[Source]) -> None:
    """Print the sources in the order in which they are tried, with their commands."""
    output.echo("in this order, until one gives a llama.cpp that runs on this machine:")
    for number, source in enumerate(listed, 1):
        output.echo(f"{number}. {source.text}{' (takes minutes)' if source.compiles else ''}")
        output.echo(f"     {shlex.join((*source.command, 'FOLDER'))}")
    output.echo("then:")
    for words in install_commands(Path("FOLDER/WHEEL")):
        output.echo(f"     {shlex.join(words)}")
