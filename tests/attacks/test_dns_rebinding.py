"""A web page points a name of its own to this machine, and asks the server by it: Host and Origin tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inputs.live_server import LiveServer

NAMES = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example:8080",
    "EVIL.EXAMPLE",
    "localhost.",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost#evil.example",
    "localhost/evil",
    "localhost\\evil",
    "localhost:80:80",
    "[::1].evil.example",
    "[::1",
    "::1",
    "127.0.0.1 evil.example",
    "%6cocalhost",
    "l\u014dcalhost".encode().decode("latin-1"),
    "",
)
PATHS = ("/", "/page/app.js", "/health", "/v1/models", "/metrics", "/slots", "/props")


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_answered_for_another_name(path: str, server: LiveServer) -> None:
    """Not even the page: a page of that origin could read what the browser keeps for it."""
    assert server.get(path, Host="evil.example").status == 403


@pytest.mark.parametrize("name", NAMES)
def test_names_that_look_like_this_machine(name: str, send: Callable[[bytes], bytes]) -> None:
    answer = send(b"GET /v1/models HTTP/1.1\r\nHost: " + name.encode("latin-1") + b"\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ", 2)[1] in (b"400", b"403"), answer


def test_two_hosts_or_none(send: Callable[[bytes], bytes]) -> None:
    for hosts in (b"Host: localhost\r\nHost: evil.example\r\n", b"Host: evil.example\r\nHost: localhost\r\n", b""):
        answer = send(b"GET /v1/models HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert answer.split(b" ", 2)[1] in (b"400", b"403"), answer


def test_a_target_with_a_name_of_its_own_does_not_count(send: Callable[[bytes], bytes]) -> None:
    """RFC 9112 lets a target name a host; the header is what browsers set."""
    request = b"GET http://localhost/v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert send(request).split(b" ", 2)[1] in (b"400", b"403", b"404")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "file://", "http://localhost:1", "x"]
)
def test_pages_of_other_origins_get_nothing(origin: str, server: LiveServer) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("OPTIONS", "/v1/models")):
        answer = server.ask(method, path, None, Origin=origin)
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


def test_a_form_or_a_simple_request_of_another_origin_is_refused(server: LiveServer) -> None:
    """Requests that browsers send without asking first: they carry the origin, too."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = {"Origin": "https://evil.example", "Content-Type": kind, "Sec-Fetch-Site": "cross-site"}
        assert server.ask("POST", "/v1/chat/completions", '{"messages": []}', **headers).status == 403
