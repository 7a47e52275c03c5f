"""How many connections there may be: each is an open file, of which a process has a limit (`ulimit -n`).

A server that has no file left cannot accept a connection, read a model or write a state; asyncio then tries again all
the time, and logs it each time.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from qwen35_gguf.errors import ServerError

MOST = 4096  # connections; each may hold a request of some megabytes
RESERVED = 32  # files of models, states, images, downloads
LEAST = 16
UNKNOWN = 64  # open files, where they cannot be counted


@dataclass(frozen=True)
class ConnectionLimit:
    """What the open files of a process leave for connections.

    Attributes:
        connections: that may be open; those beyond get 503.
        backlog: connections that are accepted in one go. A refused one is closed three turns of the event loop after
            it was accepted, so that four times as many may be open in addition.

    """

    connections: int
    backlog: int


def connection_limit() -> ConnectionLimit:
    """Raise the limit of open files as far as this process may, and divide what is free.

    Raises:
        ServerError: too few files may be open.

    """
    allowed, used = _allowed(), _open() + RESERVED
    free = allowed - used
    if free < 2 * LEAST:
        raise ServerError(
            f"{allowed} files may be open at a time, which is too few for a server; "
            f"raise the limit (`ulimit -n {used + 1024}`)"
        )
    backlog = min(128, free // 8)
    return ConnectionLimit(min(MOST, free - 4 * backlog), backlog)


def _allowed() -> int:
    if sys.platform == "win32":  # no limit of the process
        return 2 * MOST
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST if hard == resource.RLIM_INFINITY else min(hard, 2 * MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has a limit of its own, below what it calls infinite
            return soft
        return wanted
    return 2 * MOST if soft == resource.RLIM_INFINITY else soft


def _open() -> int:
    try:
        return sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        return UNKNOWN
