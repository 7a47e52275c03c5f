"""Show the progress of long steps on stderr: a bar on a terminal, at most eleven plain lines elsewhere (logs, CI)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from qwen35_gguf import units

Advance = Callable[[int], None]

# One console for bars and messages, so that rich prints a message above a running bar.
_console = Console(stderr=True)


def say(text: str) -> None:
    """Print a message to stderr, above a running bar."""
    _console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(total_bytes: int, description: str) -> Iterator[Advance]:
    """Show the progress of a step. Yields a function to call with the bytes processed since the last call.

    Args:
        total_bytes: bytes of the whole step; 0 shows a finished step.
        description: name of the step, or of the file.

    """
    with _bar(total_bytes, description) if _console.is_terminal else _lines(total_bytes, description) as advance:
        yield advance


@contextmanager
def _bar(total_bytes: int, description: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console) as bar:
        task = bar.add_task(description, total=total_bytes)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _lines(total_bytes: int, description: str) -> Iterator[Advance]:
    start = time.monotonic()
    done, shown = 0, -1

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        tenths = min(10 * done // total_bytes, 10) if total_bytes > 0 else 10
        if tenths > shown:
            shown = tenths
            say(_line(description, done, total_bytes, tenths, time.monotonic() - start))

    advance(0)
    yield advance


def _line(description: str, done: int, total: int, tenths: int, seconds: float) -> str:
    """Format one plain line, such as `converting: 40 %, 1.2 of 3.0 GB, 210.0 MB/s, 9 s left`."""
    divisor, unit = units.scale(total)
    line = f"{description}: {10 * tenths} %, {done / divisor:.1f} of {total / divisor:.1f} {unit}"
    if done and seconds > 0:
        rate = done / seconds
        line += f", {rate / 1e6:.1f} MB/s"
        line += f", {max(total - done, 0) / rate:.0f} s left" if done < total else f", {seconds:.0f} s"
    return line


def steps() -> Progress:
    """Return a bar on stderr for work in steps; enter it with `with`, and call `counted` for each task."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=_console)


def counted(bar: Progress, description: str) -> Callable[[int, int], None]:
    """Add a task to a bar of `steps`. Returns a function to call with the number of finished steps and of all steps."""
    task = bar.add_task(description, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)
