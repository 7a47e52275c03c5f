"""Find the fastest settings here, and keep them."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from qwen35_gguf.atomic_file import check_folder
from qwen35_gguf.cache_dir import profile_dir
from qwen35_gguf.commands import output
from qwen35_gguf.commands.first_contact import completion
from qwen35_gguf.commands.parameter_types import DURATION, ENDPOINTS
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.errors import ModelError
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.model_files import read_model
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.fitting import check_fits
from qwen35_gguf.runtime.planning.kv_cache_type import BOUND
from qwen35_gguf.runtime.planning.memory import estimate
from qwen35_gguf.runtime.planning.yarn import native_context
from qwen35_gguf.runtime.settings import Settings, memory_request
from qwen35_gguf.runtime.tuning import profiles
from qwen35_gguf.runtime.tuning.search import GOALS, Goal, Race, Result, coordinates, score, search
from qwen35_gguf.runtime.tuning.trial import Trials

CONTEXT = 4096  # of the trials
DRAFTS_PAY = 1.05  # what drafts must gain when all are right
BAR = 32  # columns


@click.command("tune", cls=Verb)
@click.argument("file", metavar="MODEL", type=click.Path(path_type=Path), shell_complete=completion.models)
@click.option("--budget", type=DURATION, default="5min", show_default=True, help="No trial starts after it.")
@click.option("--goal", type=click.Choice(GOALS), default="balanced", show_default=True, help="What is to be fast.")
@click.option(
    "--max-divergence",
    type=click.FloatRange(min=0),
    default=BOUND,
    show_default=True,
    help="What a KV type may add to F16's mean KL divergence.",
)
@click.option("--device", "devices", multiple=True, help="A GPU of this machine, or cpu for none; may be repeated.")
@click.option("--rpc", type=ENDPOINTS, default="", help="RPC servers as well: host:port, separated by commas.")
@click.option("--dry-run", is_flag=True, help="Print what would be tried.")
@click.option("--no-save", is_flag=True, help="Do not keep the profile.")
def command(
    file: Path,
    budget: float,
    goal: Goal,
    max_divergence: float,
    devices: tuple[str, ...],
    rpc: tuple[str, ...],
    dry_run: bool,
    no_save: bool,
) -> None:
    """Measure which settings are fastest for MODEL on this machine; `run`, `chat` and `Qwen35` then use them.

    Every trial is a process of its own, so that one that runs out of memory is a result like any other.
    """
    header = read_model(file)
    if not (no_save or dry_run):
        check_folder(profile_dir())
    gpus = offload.find(devices, rpc)
    start = Settings.default()
    n_ctx = min(CONTEXT, native_context(header))
    ram = available_bytes()
    request = memory_request(start, start.depth, n_ctx=n_ctx, cached_states=0)
    needed = estimate(header, request).total
    twice = not rpc and all(gpu.free >= 2 * needed for gpu in gpus)
    trials = Trials(file, n_ctx, devices, rpc, gpus, ram, kept=2 if 2 * needed <= ram else 1, side_by_side=twice)
    listed = coordinates(
        cores=default_threads(),
        n_ctx=n_ctx,
        devices=len(gpus),
        layers=offload.most_layers(header),
        rank=trials.rank,
        host_fits=needed <= ram,
        max_divergence=max_divergence,
    )
    if dry_run:
        tried = [(coordinate.name, list(coordinate.around(start))) for coordinate in listed]  # a name may come twice
        for name, values in tried:
            output.echo(f"{name}: {', '.join(map(shown, values))}")
        output.emit({"tried": [{"setting": name, "values": values} for name, values in tried]})
        return
    if gpus:
        trials.place(start)  # raises if no plan fits
    else:
        check_fits(header, request, ram)
    console = Console(stderr=True, quiet=output.is_quiet())
    with trials:
        console.print(f"{file.name}: {goal}, at most {budget:.0f} s", highlight=False)
        first = trials.measure(start)
        if first.problem:
            raise ModelError(f"{file}: the defaults do not work here ({first.problem})")
        result = search(
            start,
            listed,
            trials.measure,
            goal,
            deadline=time.monotonic() + budget,
            max_divergence=max_divergence,
            effect=trials.effect,
            on_race=lambda race: console.print(line(race), highlight=False, soft_wrap=True),
        )
    if result.best.problem:
        raise ModelError(f"{file}: the fastest settings no longer work ({result.best.problem}); tune again")
    settings = replace(result.settings, draft=start.draft and result.best.drafting >= DRAFTS_PAY)
    profile = profiles.Profile(
        settings, goal, result.gain, datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    )
    path = None if no_save else profiles.save(profile, file, gpus)
    words = {"default": str(trials.place(start)), "tuned": str(trials.place(settings))} if gpus else {}
    output.emit(as_record(result, settings, goal, path, words))
    draw(output.console(), result, settings, goal, words)
    if path is not None:
        output.echo(f"kept as {path}; run, chat and Qwen35 use it (unless --no-profile)")


def shown(value: Any) -> str:
    """Write a value; shares of devices as 3:1."""
    return str(value) if not isinstance(value, tuple) else ":".join(map(str, value)) or "planned"


def line(race: Race) -> str:
    """Describe how a race went."""
    value = shown(getattr(race.challenger, race.changed))
    if race.problem:
        return f"  {race.changed} {value}: no figures ({race.problem})"
    found = race.seen[-1]
    cost = f", divergence {found.divergence:.1e}" if found.divergence else ""
    verdict = "accepted" if race.won else "rejected"
    return (
        f"  {race.changed} {value}: prefill {found.prefill:,.0f}, decode {found.decode:,.1f} tokens/s{cost}, "
        f"ratio {race.ratio or 0:.2f}: {verdict}"
    )


def draw(console: Console, result: Result, settings: Settings, goal: Goal, words: Mapping[str, str]) -> None:
    """Draw what was found: every race as a bar, then the defaults beside the winner, and where their layers are."""
    plot = Table(title=None, box=None, pad_edge=False, show_header=False)
    for race in result.races:
        ratio = race.ratio
        bar = "x" if race.problem else "█" * max(1, min(BAR, round(ratio * BAR / 2)))
        mark = "+" if race.won else ""
        plot.add_row(f"{race.changed} {shown(getattr(race.challenger, race.changed))}", f"{ratio:.2f}{mark}", bar)
    console.print(plot)
    table = Table(box=None, pad_edge=False)
    for name in ("", "defaults", "tuned", "ratio"):
        table.add_column(name, justify="left" if not name else "right")
    for name in ("prefill", "decode"):
        before, after = getattr(result.default, name), getattr(result.best, name)
        table.add_row(f"{name}, tokens/s", f"{before:,.1f}", f"{after:,.1f}", f"{after / before:.2f}" if before else "")
    table.add_row("RAM, MB", f"{result.default.memory / 1e6:,.0f}", f"{result.best.memory / 1e6:,.0f}", "")
    table.add_row(goal, "", "", f"{result.gain:.2f}")
    console.print(table)
    for side, placed in words.items():
        console.print(f"{side}: {placed}", highlight=False)
    chosen = ", ".join(f"{name} {shown(value)}" for name, value in asdict(settings).items())
    console.print(f"{chosen}\n{result.measurements} measurements of {result.trials} settings", highlight=False)
    if settings.draft:
        console.print(f"drafts gain at most {result.best.drafting:.2f} times here", highlight=False)


def as_record(
    result: Result, settings: Settings, goal: Goal, path: Path | None, words: Mapping[str, str]
) -> dict[str, Any]:
    """Return the result for JSON; `words` describe where the layers are, if there are devices for them."""
    races = [
        {"changed": race.changed, "value": getattr(race.challenger, race.changed), "ratio": race.ratio, "won": race.won}
        | {"problem": race.problem, "measurements": [asdict(found) for found in race.seen]}
        for race in result.races
    ]
    return {
        "goal": goal,
        "settings": asdict(settings),
        "gain": result.gain,
        "score": {"default": score(result.default, goal), "tuned": score(result.best, goal)},
        "default": asdict(result.default),
        "tuned": asdict(result.best),
        "measurements": result.measurements,
        "trials": result.trials,
        "races": races,
        "profile": str(path) if path else None,
    } | ({"placement": dict(words)} if words else {})
