"""A request makes the server ask other machines: no address that is not public is ever connected to.

Names are resolved by a table, in which 127.0.0.1 plays a public address and 127.0.0.2 a private one, so that redirects
and changing answers of a name server can be tried without a network.
"""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from inputs.live_server import LiveServer
from qwen35_gguf.errors import MediaError
from qwen35_gguf.runtime.media import fetch as fetching
from qwen35_gguf.runtime.media.fetch import fetch, is_public

PRIVATE = (
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
)
# Spellings of loopback and of a metadata service that resolvers understand.
HOSTS = (
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "localhost",
    "LOCALHOST",
    "0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "127.0.0.1%00.example",
    "user@127.0.0.1",
    "public.example@127.0.0.1",
    "127。0。0。1",
    "ⓛocalhost",
)


@pytest.mark.unit
@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.unit
@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was connected to; a connection fails the test unless the address is public."""
    made: list[Any] = []

    def connect(_: socket.socket, address: Any) -> None:
        made.append(address)
        assert is_public(str(address[0])), address
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return made


@pytest.mark.unit
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_spellings_of_this_machine(scheme: str, host: str, connections: list[Any]) -> None:
    with pytest.raises(MediaError):
        fetch(f"{scheme}://{host}:8080/", max_bytes=1000, timeout=5)
    assert connections == []


@pytest.mark.unit
@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://public.example/",
        "gopher://public.example/_x",
        "data:text/plain,x",
        "jar:http://public.example!/",
        "http:/etc/passwd",
        "http:///etc/passwd",
        "http://public.example/\r\nHost: evil.example",
        "http://public.example\r\n\r\nGET / HTTP/1.1/",
        "http://public.example:99999/",
        "http://[public.example/",
        "//public.example/",
        "",
    ],
)
def test_other_schemes_and_broken_addresses(url: str, connections: list[Any]) -> None:
    with pytest.raises(MediaError) as caught:
        fetch(url, max_bytes=1000, timeout=5)
    assert "\n" not in str(caught.value)
    assert connections == []


# ---- redirects, and name servers that change their minds ---------------------------------------------------------


class Names:
    """A name server of a table: each name has answers, one for each time that it is asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    def resolve(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked.append(host)
        answers = self.answers.get(host, [[host]])
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(fetching.socket, "getaddrinfo", made.resolve)
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    return made


@pytest.fixture
def redirecting() -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """A server on the address that plays a public one: its port, what it was asked for, and its redirects."""
    asked: list[str] = []
    redirects: dict[str, str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302 if self.path in redirects else 200)
            if self.path in redirects:
                self.send_header("Location", redirects[self.path])
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, asked, redirects
        finally:
            server.shutdown()
            thread.join()


def get(port: int, path: str = "/", **limits: Any) -> bytes:
    return fetch(f"http://public.example:{port}{path}", **{"max_bytes": 1000, "timeout": 5, **limits})


@pytest.mark.unit
def test_a_redirect_leads_to_a_private_address(names: Names, redirecting: Any) -> None:
    port, asked, redirects = redirecting
    names.answers = {"public.example": [["127.0.0.1"]], "private.example": [["127.0.0.2"]]}
    assert get(port) == b"ok"
    for target in (
        f"http://private.example:{port}/",
        f"http://127.0.0.2:{port}/",
        "//127.0.0.2/",
        "http://private.example",
    ):
        redirects["/r"] = target
        with pytest.raises(MediaError, match="is a private address"):
            get(port, "/r")
    redirects |= {"/1": "/2", "/2": f"http://public.example:{port}/3", "/3": "http://private.example/"}
    with pytest.raises(MediaError, match="is a private address"):
        get(port, "/1")
    assert asked[-3:] == ["/1", "/2", "/3"]


@pytest.mark.unit
@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://public.example/", "gopher://x/", "javascript:x", "data:,x"]
)
def test_a_redirect_changes_the_scheme(target: str, names: Names, redirecting: Any) -> None:
    port, _, redirects = redirecting
    names.answers = {"public.example": [["127.0.0.1"]]}
    redirects["/r"] = target
    with pytest.raises(MediaError):
        get(port, "/r")


@pytest.mark.unit
def test_a_redirect_leaves_https(names: Names, redirecting: Any) -> None:
    """Where https alone is allowed, an answer over it cannot lead to http."""
    opener = fetching._opener(False, True, lambda _: None)
    handlers = {type(handler).__name__ for handler in opener.handlers}
    assert not any("PlainHandler" in name for name in handlers)
    port, *_ = redirecting
    names.answers = {"public.example": [["127.0.0.1"]]}
    with pytest.raises(MediaError, match="only https"):
        get(port, https_only=True)


@pytest.mark.unit
def test_redirects_in_a_circle_end(names: Names, redirecting: Any) -> None:
    port, asked, redirects = redirecting
    names.answers = {"public.example": [["127.0.0.1"]]}
    redirects |= {"/a": "/b", "/b": "/a"}
    with pytest.raises(MediaError):
        get(port, "/a")
    assert len(asked) < 20


@pytest.mark.unit
def test_a_name_that_changes_after_it_was_checked(names: Names, redirecting: Any) -> None:
    """The connection goes to the address that was checked: the name is asked for once."""
    port, *_ = redirecting
    names.answers = {"public.example": [["127.0.0.1"], ["127.0.0.2"]]}
    assert get(port) == b"ok"
    assert names.asked == ["public.example"]
    with pytest.raises(MediaError, match="is a private address"):
        get(port)


@pytest.mark.unit
def test_a_name_with_a_public_and_a_private_address(names: Names, redirecting: Any) -> None:
    port, asked, _ = redirecting
    names.answers = {"public.example": [["127.0.0.1", "127.0.0.2"]]}
    with pytest.raises(MediaError, match="is a private address"):
        get(port)
    assert asked == []


@pytest.mark.unit
def test_a_proxy_of_the_environment_is_not_used(
    names: Names, redirecting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, *_ = redirecting
    names.answers = {"public.example": [["127.0.0.1"]]}
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.2:1")
    assert get(port) == b"ok"


# ---- through the server ------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """What no request may reach."""
    with socket.create_server(("", 0)) as made:
        made.settimeout(0.05)
        yield made


@pytest.mark.parametrize("host", ["", "example.com"])
def test_a_long_url_with_control_characters_is_a_short_line(host: str) -> None:
    with pytest.raises(MediaError) as refused:
        fetch(f"http://{host}/" + "\0\x1b[2J" * 2000, max_bytes=1, timeout=1)
    assert len(str(refused.value)) < 400
    assert str(refused.value).isprintable()


def test_what_a_server_says_is_a_short_line() -> None:
    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 404 \x1b[2J" + b"x" * 30_000 + b"\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(MediaError, match=r"the server answered 404 \?\[2Jx+…; check") as refused:
            fetch(url, max_bytes=1, timeout=10, allow_private=True)
        thread.join()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0", "2130706433"])
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_no_api_of_the_server_asks_other_machines(
    api: str, host: str, server: LiveServer, listener: socket.socket
) -> None:
    for scheme in ("http", "https"):
        url = f"{scheme}://{host}:{listener.getsockname()[1]}/image.png"
        image = {"type": "image_url", "image_url": {"url": url}}
        source = {"type": "image", "source": {"type": "url", "url": url}}
        part = {"type": "input_image", "image_url": url}
        bodies: dict[str, tuple[str, dict[str, Any]]] = {
            "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": [image]}]}),
            "responses": ("/v1/responses", {"input": [{"role": "user", "content": [part]}]}),
            "messages": ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": [source]}]}),
        }
        answer = server.post(*bodies[api])
        assert answer.status == 400, answer.body
        with pytest.raises(TimeoutError):
            listener.accept()
