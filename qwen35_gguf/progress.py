"""Show the progress of long steps on stderr: a bar on a terminal, at most eleven plain lines elsewhere (logs, CI).

A step of half a second shows nothing: what is over before it can be read is not worth a line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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

DELAY = 0.5  # seconds of work before anything is shown

# One console for bars and messages, so that rich prints a message above a running bar.
_console = Console(stderr=True)


def say(text: str) -> None:
    """Print a message to stderr, above a running bar."""
    _console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def silent(wanted: bool = True) -> Iterator[None]:
    """Show neither progress nor messages within a block, if `wanted`."""
    before = _console.quiet
    _console.quiet = before or wanted
    try:
        yield
    finally:
        _console.quiet = before


@contextmanager
def progress(total_bytes: int, description: str) -> Iterator[Advance]:
    """Show the progress of a step. Yields a function to call with the bytes processed since the last call.

    Args:
        total_bytes: bytes of the whole step; 0 shows a finished step.
        description: name of the step, or of the file.

    """
    if not _console.is_terminal:
        yield _lines(total_bytes, lambda done, seconds: _line(description, done, total_bytes, seconds))
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with _late(Progress(*columns, console=_console)) as bar:
        task = bar.progress.add_task(description, total=total_bytes)

        def advance(count: int) -> None:
            bar.show()
            bar.progress.advance(task, count)

        yield advance


@dataclass
class Steps:
    """A bar for work in steps, which appears when the work takes a while."""

    progress: Progress
    begun: float

    def show(self) -> None:
        """Show the bar, unless the work has just begun."""
        if not self.progress.live.is_started and time.monotonic() - self.begun >= DELAY:
            self.progress.start()


@contextmanager
def steps() -> Iterator[Steps]:
    """Show the progress of work in steps; call `counted` for each task."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _late(Progress(*columns, console=_console)) as bar:
        yield bar


def counted(bar: Steps, description: str) -> Callable[[int, int], None]:
    """Add a task to a bar of `steps`. Returns a function to call with the number of finished steps and of all steps."""
    if not _console.is_terminal:
        return _counted_lines(description)
    task = bar.progress.add_task(description, total=None)

    def update(done: int, total: int) -> None:
        bar.show()
        bar.progress.update(task, completed=done, total=total)

    return update


@contextmanager
def _late(bar: Progress) -> Iterator[Steps]:
    try:
        yield Steps(bar, time.monotonic())
    finally:
        if bar.live.is_started:
            bar.stop()


def _counted_lines(description: str) -> Callable[[int, int], None]:
    begun, shown = time.monotonic(), -1

    def update(done: int, total: int) -> None:
        nonlocal shown
        tenths = _tenths(done, total)
        if tenths > shown and time.monotonic() - begun >= DELAY:
            shown = tenths
            say(f"{description}: {done:,} of {total:,}")

    return update


def _lines(total_bytes: int, line: Callable[[int, float], str]) -> Advance:
    start = time.monotonic()
    done, shown = 0, -1

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        seconds = time.monotonic() - start
        tenths = _tenths(done, total_bytes)
        if tenths > shown and seconds >= DELAY:
            shown = tenths
            say(line(done, seconds))

    advance(0)
    return advance


def _tenths(done: int, total: int) -> int:
    return min(10 * done // total, 10) if total > 0 else 10


def _line(description: str, done: int, total: int, seconds: float) -> str:
    """Format one plain line, such as `converting: 40 %, 1.2 of 3.0 GB, 210.0 MB/s, 9 s left`."""
    divisor, unit = units.scale(total)
    line = f"{description}: {10 * _tenths(done, total)} %, {done / divisor:.1f} of {total / divisor:.1f} {unit}"
    if done and seconds > 0:
        rate = done / seconds
        line += f", {rate / 1e6:.1f} MB/s"
        line += f", {max(total - done, 0) / rate:.0f} s left" if done < total else f", {seconds:.0f} s"
    return line
