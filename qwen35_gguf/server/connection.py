"""A connection of the HTTP server: one too many, and one that sends the beginning of a request too slowly, is closed.

uvicorn accepts as many as come, and waits for ever for the line and the headers of a request; a body has a limit of its
own (`json_body`).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qwen35_gguf.server.api_error import ApiError, openai_error

HEAD_SECONDS = 30.0  # from the connection, or the first byte of a later request, to the end of the headers
_BODY = json.dumps(openai_error(ApiError(503, "too many connections; try again later", "overloaded"))).encode()
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 by h11, whose parser is the strict one, with a limit of time for the head of each request.

    Attributes:
        most: connections that may be open; one beyond gets 503, and is closed.

    """

    _head: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, most: int, **keywords: Any) -> None:
        """Take what uvicorn gives each connection, and a limit of their number."""
        super().__init__(*args, **keywords)
        self.most = most

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(FULL)
            transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._rest()

    def _watch(self) -> None:
        """Wait for the rest of a head; the time does not begin again with each byte."""
        if self.conn.their_state is not h11.IDLE:
            self._rest()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._late)

    def _rest(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _late(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
