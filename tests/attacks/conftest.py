"""What attacks are tried on: the demo model behind a server, raw connections to it, and its page in Chromium."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from inputs.clients.chat_page import browser, open_page, page
from inputs.demo_server import demo, server, start
from inputs.live_server import LiveServer

__all__ = ["browser", "demo", "open_page", "page", "server", "start"]

Send = Callable[[bytes], bytes]


@pytest.fixture
def send(server: LiveServer) -> Send:
    """Send bytes as they are on a connection of their own, and read until it is closed or silent for a second."""

    def sent(data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=1) as connection:
            connection.sendall(data)
            answer = b""
            while True:
                try:
                    part = connection.recv(1 << 16)
                except (TimeoutError, ConnectionError):
                    return answer
                if not part:
                    return answer
                answer += part

    return sent


@pytest.fixture(autouse=True)
def _stays_up(request: pytest.FixtureRequest) -> object:
    """After each attack the server still answers."""
    yield
    if "server" in request.fixturenames:
        assert request.getfixturevalue("server").get("/health").status == 200
