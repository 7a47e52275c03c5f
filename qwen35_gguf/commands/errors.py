"""The one place where errors become what a command prints: one line on stderr and an exit code.

A user's mistake or a bad file exits with 2, as click's own usage errors do; Ctrl-C with 130, as a shell expects.
Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import click

from qwen35_gguf import thread_limit
from qwen35_gguf.commands.names.option_names import as_typed
from qwen35_gguf.commands.output import shown
from qwen35_gguf.errors import Qwen35Error

P = ParamSpec("P")
R = TypeVar("R")

USER_ERROR = 2
INTERRUPTED = 130
AGAIN = 0.002  # seconds until a lost Ctrl-C is sent again


@contextlib.contextmanager
def repeated_interrupts() -> Iterator[None]:
    """Let no Ctrl-C be lost: one that arrives in a function that C code calls is reported by Python, and forgotten.

    It is sent again, until it arrives elsewhere.
    """
    before, lost = sys.unraisablehook, threading.Event()

    def again(problem: sys.UnraisableHookArgs) -> None:
        if not issubclass(problem.exc_type, KeyboardInterrupt):
            before(problem)
            return
        lost.set()
        threading.Timer(AGAIN, _thread.interrupt_main).start()

    sys.unraisablehook = again
    try:
        yield
        if lost.is_set():
            time.sleep(2 * AGAIN)
    finally:
        sys.unraisablehook = before


class _CommandError(click.ClickException):
    """Shown by click as `Error: message`."""

    exit_code = USER_ERROR

    def format_message(self) -> str:
        """Return the message as a terminal may show it."""
        return shown(super().format_message(), err=True)


def reports_errors(callback: Callable[P, R]) -> Callable[P, R]:
    """Decorate a click callback, below click's own decorators, so that its errors are one line and an exit code."""

    @functools.wraps(callback)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return callback(*args, **kwargs)
        except Qwen35Error as error:
            # A file name or a library's text inside the message may hold line ends.
            message = " ".join(str(error).splitlines())
            raise _CommandError(as_typed(message, click.get_current_context(silent=True))) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # of a reader that is gone, which click knows
                raise
            # A path that the system refuses as such: its name is too long, or its links lead back to it. A number
            # without a path: stdout, or a limit of this process.
            named = f"{error.filename}: " if error.filename else ""
            advice = (
                "the path and permissions"
                if error.filename or error.errno is None
                else "where the output goes, and `ulimit -a`"
            )
            message = " ".join(f"{named}{error.strerror or error}; check {advice}".splitlines())
            raise _CommandError(as_typed(message, click.get_current_context(silent=True))) from error
        except click.UsageError as error:
            message = error.format_message()
            if (harmless := shown(message, err=True)) == message:  # it may repeat what was typed
                raise
            raise click.UsageError(harmless, error.ctx) from None
        except RuntimeError as error:
            if str(error) != thread_limit.NOT_STARTED:
                raise
            raise _CommandError(thread_limit.refusal(1, 0)) from None
        except MemoryError:
            message = "out of memory: an allocation failed; close other programs, or raise the limit (`ulimit -v`)"
            raise _CommandError(message) from None
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None

    return reporting
