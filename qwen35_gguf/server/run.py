"""Run a server until it is stopped: SIGTERM and Ctrl-C let streams end first."""

from __future__ import annotations

import functools
import math
import socket

import uvicorn
from starlette.applications import Starlette

from qwen35_gguf.errors import ServerError
from qwen35_gguf.server.connection import PatientProtocol
from qwen35_gguf.server.open_files import connection_limit
from qwen35_gguf.server.settings import ServerSettings

KEEP_ALIVE = 30  # seconds that an idle connection is kept


def listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ServerError: the address is in use, or is not one of this machine.

    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    both = settings.host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=256, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a port"
        raise ServerError(
            f"{settings.host} port {settings.port}: cannot listen ({reason or error}); use another host or port"
        ) from None


def server(app: Starlette, settings: ServerSettings) -> uvicorn.Server:
    """Make the HTTP server of an application; its `run` takes what `listen` returned.

    Raises:
        ServerError: too few files may be open for a server.

    """
    limit = connection_limit()
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=functools.partial(PatientProtocol, most=limit.connections),  # type: ignore[arg-type]  # called alone
            backlog=limit.backlog,
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="on",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=math.ceil(settings.grace),
        )
    )
