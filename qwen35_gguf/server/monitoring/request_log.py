"""Log and count requests; answer where something fails that should not."""

from __future__ import annotations

import logging
import time
import traceback

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen35_gguf.server.api_error import api_error, error_object
from qwen35_gguf.server.monitoring.metrics import Metrics

log = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
GONE = 499  # nginx's status for a client that closed its connection; nobody reads it


class RequestLog:
    """Logs a line for each request, without what the client sent: neither a query, nor a body, nor a key."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Watch an application."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 0, time.perf_counter()

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception as error:
            places = "".join(traceback.format_tb(error.__traceback__))  # the message may hold what a client sent
            log.error("%s %s: %s\n%s", _method(scope), _known(scope), type(error).__name__, places)
            if not status:
                answer = JSONResponse(error_object(scope["path"], api_error(error)), 500)
                await answer(scope, receive, send_on)
        finally:
            seconds = time.perf_counter() - start
            log.info("%s %s %d %.2f s", _method(scope), _known(scope), status or GONE, seconds)
            self._metrics.request(_known(scope), status or GONE)


def _method(scope: Scope) -> str:
    """Return the method, of which a client may make up any, of 60,000 letters as well."""
    return str(scope["method"]) if scope["method"] in METHODS else "(other)"


def _known(scope: Scope) -> str:
    """Return the path of a route; what else a client may write is not logged."""
    route = scope.get("route")
    return str(route.path) if route is not None else "(other)"
