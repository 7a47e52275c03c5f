"""A server on loopback in a thread of this process, for tests that ask over a real connection."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A response that was read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events: values of JSON, and texts that are not JSON."""
        found = []
        for block in self.body.decode().split("\n\n"):
            for line in block.split("\n"):
                if line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    found.append(data if data == "[DONE]" else json.loads(data))
        return found


@dataclass(frozen=True)
class LiveServer:
    """Where a server listens."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self, timeout: float = 60) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request: a body of JSON, or bytes and texts as they are."""
        connection = self.connection()
        try:
            sent = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
            connection.request(method, path, sent, self.headers | headers)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)


@contextlib.contextmanager
def serving(app: Any, settings: Any = None) -> Iterator[LiveServer]:
    """Serve an ASGI application for a block, as `qwen35 serve` does."""
    from qwen35_gguf.server.run import server as make_server
    from qwen35_gguf.server.settings import ServerSettings

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = make_server(app, settings or ServerSettings(grace=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield LiveServer(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
