"""What is fuzzed: a function of bytes that may return or raise one of the project's errors, and nothing else."""

from __future__ import annotations

import functools
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_gguf.errors import Qwen35Error

SECONDS = 5.0  # of the processor, for one input
MEMORY = 1 << 30  # bytes, beyond what the process has before
LONGEST = 2000  # characters of a message


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        name: of the target, and of its corpus.
        run: takes an input.
        seeds: inputs to begin with.
        modules: of the package, whose lines the inputs are to reach.
        words: that inputs are made of, beside bytes.
        needs: packages without which it cannot run.
        longest: bytes of an input.
        refusals: errors that are right beside those of the package.

    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    modules: tuple[str, ...]
    words: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    longest: int = 4096
    refusals: tuple[type[Exception], ...] = ()


class Fault(Exception):  # noqa: N818 - what is wrong with the parser, not with the input
    """A parser did what it must not do: another error, no end, or too much memory.

    Attributes:
        place: kind of the error, and the innermost line of the project: equal for equal faults.

    """

    def __init__(self, place: str, details: str) -> None:
        super().__init__(f"{place}\n{details}")
        self.place = place


class _TooSlowError(BaseException):
    pass


def try_input(target: Target, data: bytes) -> bool:
    """Run a target; return whether the input was accepted.

    Raises:
        Fault: it did what it must not do.

    """
    try:
        with limited_time(SECONDS):
            target.run(data)
    except Qwen35Error as error:
        if not 0 < len(str(error)) <= LONGEST:
            raise Fault(f"{type(error).__name__} that is empty or too long", str(error)[:200]) from None
        return False
    except target.refusals:
        return False
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | Fault):
            raise
        raise Fault(_place(error), traceback.format_exc(limit=-12)) from None
    return True


def _place(error: BaseException) -> str:
    root = Path(__file__).parents[2]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(root)]
    own = [f for f in frames if "/tests/" not in f.filename and "/.venv/" not in f.filename]
    last = (own or frames or [None])[-1]
    where = "" if last is None else f" at {Path(last.filename).relative_to(root)}:{last.lineno}"
    return f"{type(error).__name__.strip('_')}{where}"


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise in a block that takes longer than this, by the clock of the process: one that waits is not slow."""
    if sys.platform == "win32":
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        raise _TooSlowError(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def limit_memory(more: int = MEMORY) -> None:
    """Let this process allocate no more than this beside what it has."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY))


@functools.cache
def scratch() -> Path:
    """Return a folder of this process, which is removed with it."""
    folder = tempfile.TemporaryDirectory(prefix="qwen35-fuzz-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[Any] = []


def as_file(name: str, data: bytes) -> Path:
    """Write an input to a file."""
    path = scratch() / name
    path.write_bytes(data)
    return path


def as_text(data: bytes) -> str:
    """Read an input as text; what is not UTF-8 becomes characters that are."""
    return data.decode("utf-8", errors="replace")
