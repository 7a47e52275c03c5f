"""The one place where errors become what a command prints: one line on stderr and an exit code.

A user's mistake or a bad file exits with 2, as click's own usage errors do; Ctrl-C with 130, as a shell expects.
Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from qwen35_gguf.commands.option_names import as_typed
from qwen35_gguf.errors import Qwen35Error

P = ParamSpec("P")
R = TypeVar("R")

USER_ERROR = 2
INTERRUPTED = 130


class _CommandError(click.ClickException):
    """Shown by click as `Error: message`."""

    exit_code = USER_ERROR


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
            # A path that the system refuses as such: its name is too long, or its links lead back to it.
            named = f"{error.filename}: " if error.filename else ""
            message = " ".join(f"{named}{error.strerror or error}; check the path and permissions".splitlines())
            raise _CommandError(as_typed(message, click.get_current_context(silent=True))) from error
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None

    return reporting
