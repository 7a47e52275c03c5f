"""One client finds out what another one asked, by what the server knows of prompts: counts, times, words, responses.

With --isolate a prompt of another key is not known, whatever API it came by: counts of reused tokens are those of a
server that never saw it, no words of it are in a miss, and responses of other keys do not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inputs.live_server import LiveServer
from qwen35_gguf.errors import ServerError
from qwen35_gguf.server.settings import ServerSettings

SECRET = "The patient has an appointment for the operation on the third of May in the clinic at the lake"
LONG = " ".join(f"Rule {number}: be brief, be kind, and say what you do not know." for number in range(12))
KEYS = ("alice", "bob")


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 2, "temperature": 0}


REQUESTS: dict[str, tuple[str, Callable[[str], dict[str, Any]], Callable[[Any], int]]] = {
    "chat": ("/v1/chat/completions", chat, lambda a: a["usage"]["prompt_tokens_details"]["cached_tokens"]),
    "completions": (
        "/v1/completions",
        lambda text: {"prompt": text, "max_tokens": 2},
        lambda a: (
            a["timings"]["reused_tokens"] if "timings" in a else a["usage"]["prompt_tokens_details"]["cached_tokens"]
        ),
    ),
    "responses": (
        "/v1/responses",
        lambda text: {"input": text, "max_output_tokens": 2},
        lambda a: a["usage"]["input_tokens_details"]["cached_tokens"],
    ),
    "messages": (
        "/v1/messages",
        lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 2},
        lambda a: a["usage"]["cache_read_input_tokens"],
    ),
}


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


FOUR = pytest.param(4, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[1, FOUR], ids=["one sequence", "four sequences"])
def isolated(request: pytest.FixtureRequest, start: Callable[..., LiveServer]) -> LiveServer:
    return start(api_keys=KEYS, isolate=True, load={"parallel": request.param})


@pytest.mark.parametrize("api", REQUESTS)
def test_a_prompt_of_another_key_is_not_known(api: str, isolated: LiveServer) -> None:
    path, body, reused = REQUESTS[api]
    asked = body(f"{api}: {LONG} {SECRET}")
    first = isolated.post(path, asked, **key("alice"))
    assert first.status == 200, first.body
    other = isolated.post(path, asked, **key("bob"))
    assert reused(other.json) == 0
    again = isolated.post(path, asked, **key("bob"))
    assert reused(again.json) > 0


@pytest.mark.parametrize("api", REQUESTS)
def test_no_api_knows_what_another_api_was_asked_with_another_key(api: str, isolated: LiveServer) -> None:
    text = f"Crossing {api}: {LONG} {SECRET}"
    for path, body, _ in REQUESTS.values():
        isolated.post(path, body(text), **key("alice"))
    path, body, reused = REQUESTS[api]
    assert reused(isolated.post(path, body(text), **key("bob")).json) == 0


def test_a_miss_has_no_words_of_another_key(isolated: LiveServer) -> None:
    text = f"{LONG} {SECRET} {LONG}"
    guess = text.replace("third of May", "first of June")
    assert isolated.post("/v1/chat/completions", chat(text), **key("alice")).status == 200
    for _ in range(2):
        answer = isolated.post("/v1/chat/completions", chat(guess), **key("bob"))
        assert b"third" not in answer.body
        assert b"May" not in answer.body
    own = isolated.post("/v1/chat/completions", chat(text), **key("bob"))
    assert b"third" not in answer.body
    assert own.status == 200


def test_without_isolation_what_is_known_is_shared(start: Callable[..., LiveServer]) -> None:
    """What docs/server.md states: keys alone keep nothing apart."""
    shared = start(api_keys=KEYS)
    text = f"{LONG} {SECRET}"
    shared.post("/v1/chat/completions", chat(text), **key("alice"))
    answer = shared.post("/v1/chat/completions", chat(text), **key("bob"))
    assert REQUESTS["chat"][2](answer.json) > 0


def test_responses_of_another_key_do_not_exist(isolated: LiveServer) -> None:
    made = isolated.post("/v1/responses", {"input": SECRET, "max_output_tokens": 2}, **key("alice")).json
    path = f"/v1/responses/{made['id']}"
    assert isolated.get(path, **key("alice")).status == 200
    for method, where in (("GET", path), ("GET", f"{path}/input_items"), ("DELETE", path)):
        answer = isolated.ask(method, where, **key("bob"))
        assert answer.status == 404
        assert SECRET.encode() not in answer.body
    later = {"input": "And then?", "previous_response_id": made["id"], "max_output_tokens": 2}
    assert isolated.post("/v1/responses", later, **key("bob")).status == 400
    assert isolated.post("/v1/responses", later, **key("alice")).status == 200
    absent = isolated.get("/v1/responses/resp_0", **key("bob")).json["error"]
    hidden = isolated.get(path, **key("bob")).json["error"]
    assert {**absent, "message": ""} == {**hidden, "message": ""}


def test_what_operators_see_has_no_texts(isolated: LiveServer) -> None:
    isolated.post("/v1/chat/completions", chat(SECRET), **key("alice"))
    for path in ("/slots", "/metrics", "/props"):
        body = isolated.get(path, **key("bob")).body
        assert b"patient" not in body
        assert b"alice" not in body


@pytest.mark.unit
def test_isolation_needs_keys() -> None:
    with pytest.raises(ServerError, match="isolate: .* there is no key"):
        ServerSettings(isolate=True)
