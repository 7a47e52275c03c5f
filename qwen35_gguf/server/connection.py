"""A connection of the HTTP server: one that sends the beginning of a request too slowly is closed.

uvicorn waits for ever for the line and the headers of a request; a body has a limit of its own (`json_body`).
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0  # from the connection, or the first byte of a later request, to the end of the headers


class PatientProtocol(H11Protocol):
    """HTTP/1.1 by h11, whose parser is the strict one, with a limit of time for the head of each request."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
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
