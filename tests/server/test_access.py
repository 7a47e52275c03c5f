"""Keys, hosts and origins."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from inputs.live_server import LiveServer
from qwen35_gguf.errors import ServerError
from qwen35_gguf.server.settings import ServerSettings

MODELS = "/v1/models"


@pytest.fixture(scope="module")
def guarded(start: Callable[..., LiveServer]) -> LiveServer:
    return start(api_keys=("first", "second"), origins=("https://page.example",), hosts=("box.example",))


def test_a_key_is_needed_where_there_are_keys(guarded: LiveServer) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first"}, {"x-api-key": ""}):
        answer = guarded.get(MODELS, **headers)
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
    for headers in ({"Authorization": "Bearer first"}, {"authorization": "bearer second"}, {"x-api-key": "second"}):
        assert guarded.get(MODELS, **headers).status == 200
    assert guarded.get("/health").status == 200


def test_errors_have_the_form_of_the_api_that_was_called(guarded: LiveServer) -> None:
    answer = guarded.post("/v1/messages", {})
    assert answer.status == 401
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "a@localhost", "", "localhost:x"])
def test_a_name_of_another_machine_is_refused(server: LiveServer, host: str) -> None:
    assert server.get(MODELS, Host=host).status in (400, 403)  # uvicorn refuses some itself


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:80", "192.0.2.7:8080"])
def test_names_of_this_machine_and_addresses_pass(server: LiveServer, host: str) -> None:
    assert server.get(MODELS, Host=host).status == 200


def test_the_name_under_which_a_server_listens_is_its_own(start: Callable[..., LiveServer]) -> None:
    server = start(host="box.example", api_keys=("k",))
    key = {"Authorization": "Bearer k"}
    assert server.get(MODELS, Host="box.example:8080", **key).status == 200
    assert server.get(MODELS, Host="other.example:8080", **key).status == 403


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_all_addresses_are_those_of_ipv4_too() -> None:
    from qwen35_gguf.server.run import listen

    with listen(ServerSettings(host="::", port=0, without_key=True)) as listener:
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=10).close()


def test_pages_of_other_origins_are_refused_unless_listed(server: LiveServer, guarded: LiveServer) -> None:
    assert server.get(MODELS, Origin="https://evil.example").status == 403
    assert server.get(MODELS, Origin="null").status == 403
    own = server.get(MODELS, Origin=server.url)
    assert own.status == 200
    assert "access-control-allow-origin" not in own.headers
    key = {"Authorization": "Bearer first", "Host": "box.example"}
    listed = guarded.get(MODELS, Origin="https://page.example", **key)
    assert listed.headers["access-control-allow-origin"] == "https://page.example"
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    preflight = guarded.ask("OPTIONS", "/v1/chat/completions", **asked)
    assert preflight.status == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]
    refused = server.ask("OPTIONS", "/v1/chat/completions", **asked)
    assert refused.status == 403


def test_beyond_loopback_a_key_is_needed() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "box.example"):
        with pytest.raises(ServerError, match="host: .* there is no key"):
            ServerSettings(host=host)
        ServerSettings(host=host, api_keys=("k",))
        ServerSettings(host=host, without_key=True)
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        ServerSettings(host=host)
    assert "secret" not in repr(ServerSettings(api_keys=("secret",)))
