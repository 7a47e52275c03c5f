"""What requests of every API share: ends with the client, queue, heartbeats, explained misses."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from inputs.chat_requests import HELLO, LONG_ANSWERS
from inputs.live_server import LiveServer

APIS = sorted(LONG_ANSWERS)
WORDS = "one two three four five six seven eight nine ten " * 12


def conversations(path: str, key: str) -> dict[str, Any]:
    """A short request of an API whose first message has a key in the middle of a text."""
    text = f"{WORDS} cch={key}; {WORDS}"
    if path == "/v1/completions":
        return {"prompt": text, "max_tokens": 2}
    if path == "/v1/responses":
        return {"instructions": text, "input": "Hello", "max_output_tokens": 2}
    if path == "/v1/messages":
        return {"system": text, "messages": HELLO, "max_tokens": 2}
    return {"messages": [{"role": "system", "content": text}, *HELLO], "max_tokens": 2}


def usages(answer: Any) -> Iterator[dict[str, Any]]:
    """Find the objects `usage`, at any depth."""
    if isinstance(answer, dict):
        if isinstance(answer.get("usage"), dict):
            yield answer["usage"]
        for value in answer.values():
            yield from usages(value)
    elif isinstance(answer, list):
        for value in answer:
            yield from usages(value)


def sample(server: LiveServer, name: str) -> float:
    """The number of a metric of the demo model."""
    for line in server.get("/metrics").body.decode().splitlines():
        if line.startswith(f'{name}{{model="demo"}} '):
            return float(line.rpartition(" ")[2])
    return 0.0


def wait_until_idle(server: LiveServer) -> None:
    end = time.monotonic() + 60
    while any(sample(server, name) for name in ("qwen35_slots_busy", "qwen35_queue", "qwen35_requests_running")):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reads", [False, True])
def test_a_client_that_leaves_frees_its_slot(server: LiveServer, path: str, stream: bool, reads: bool) -> None:
    wait_until_idle(server)
    failed = sample(server, "qwen35_failed_answers_total")
    connection = server.connection()
    connection.request("POST", path, json.dumps(LONG_ANSWERS[path] | {"stream": stream}))
    if stream and reads:
        assert connection.getresponse().read(30)
    else:
        end = time.monotonic() + 60
        while not sample(server, "qwen35_slots_busy"):
            assert time.monotonic() < end
    connection.close()
    wait_until_idle(server)
    assert sample(server, "qwen35_failed_answers_total") == failed + 1


@pytest.fixture(scope="module")
def narrow(start: Callable[..., LiveServer]) -> LiveServer:
    """A server with one sequence, for which one request may wait."""
    return start(load={"parallel": 1, "queue_limit": 1})


@pytest.mark.parametrize("path", APIS)
def test_a_queue_that_overflows_is_503_with_a_time(narrow: LiveServer, path: str) -> None:
    wait_until_idle(narrow)
    held = [narrow.connection() for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for connection in held:
            stack.callback(connection.close)
            connection.request("POST", path, json.dumps(LONG_ANSWERS[path]))
        end = time.monotonic() + 60
        while not (sample(narrow, "qwen35_slots_busy") and sample(narrow, "qwen35_queue")):
            assert time.monotonic() < end
        for stream in (False, True):
            refused = narrow.post(path, LONG_ANSWERS[path] | {"stream": stream})
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1
            kind = refused.json["error"]["type"]
            assert kind == ("overloaded_error" if path == "/v1/messages" else "server_error")
    wait_until_idle(narrow)
    assert narrow.post(path, conversations(path, "x")).status == 200


def test_of_many_requests_all_are_answered_or_refused(narrow: LiveServer) -> None:
    wait_until_idle(narrow)
    with ThreadPoolExecutor(16) as pool:
        asked = [
            pool.submit(narrow.post, path, conversations(path, str(number))) for number in range(8) for path in APIS
        ]
    statuses = {each.result().status for each in asked}
    assert statuses == {200, 503}
    wait_until_idle(narrow)


@pytest.mark.parametrize("path", APIS)
def test_heartbeats_tell_how_far_a_prompt_is(start: Callable[..., LiveServer], path: str) -> None:
    server = start(heartbeat=0.01, load={"n_ctx": 8192, "n_batch": 16})
    request = conversations(path, "x" * 12_000) | {"stream": True}
    body = server.post(path, request).body.decode()
    assert ": prompt " in body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", APIS)
def test_a_miss_is_explained(
    start: Callable[..., LiveServer], path: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    more = {"stream": stream}
    if path in ("/v1/chat/completions", "/v1/completions"):
        more |= {"stream_options": {"include_usage": True}}
    found = []
    with caplog.at_level(logging.INFO, "qwen35_gguf.server"):
        for key in ("ab12", "77f0"):
            answer = server.post(path, conversations(path, key) | more)
            assert answer.status == 200, answer.body
            found.append(list(usages(answer.events if stream else answer.json))[-1])
    assert "miss" not in found[0]
    assert "'cch=ab12" in found[1]["miss"]
    assert "became 'cch=77f0" in found[1]["miss"]
    assert "tokens evaluated again" in found[1]["miss"]
    lines = [record.getMessage() for record in caplog.records if "; miss: " in record.getMessage()]
    assert len(lines) == 1
    assert "tokens evaluated again" in lines[0]
    assert "77f0" not in lines[0]  # what clients send is not logged


@pytest.mark.parametrize("path", APIS)
def test_fields_that_are_not_known_are_accepted(server: LiveServer, path: str) -> None:
    body = conversations(path, "x") | {"frobnicate": {"a": [1]}, "service_tier": "auto", "user": None}
    assert server.post(path, body).status == 200


@pytest.mark.parametrize("path", [path for path in APIS if path != "/v1/completions"])
def test_ignored_text_does_not_change_a_prompt(start: Callable[..., LiveServer], path: str) -> None:
    server = start(load={"ignore": r"cch=\w+;"})
    first, again = (list(usages(server.post(path, conversations(path, key)).json))[-1] for key in ("ab12", "77f0"))
    assert "miss" not in again
    assert json.dumps(first) != json.dumps(again)  # the second one is reused


@pytest.mark.parametrize(
    "more",
    [
        {"grammar": "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000},
        {"grammar": "root ::= " + '"a"? ' * 6000},
        {"grammar": 'root ::= "a"{999999999}'},
        {
            "grammar": "\n".join(
                ["root ::= r0", *(f"r{i} ::= r{i + 1} | r{i + 1} r{i + 1}" for i in range(30)), 'r30 ::= "a" | ""']
            )
        },
        {
            "response_format": {
                "type": "lark",
                "lark": "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(3000)) + "r3000: /a/",
            }
        },
        {"response_format": {"type": "regex", "regex": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}"}},
        {"response_format": {"type": "json_object", "schema": {"properties": {f"p{i}": {} for i in range(5000)}}}},
    ],
)
def test_a_bomb_of_rules_is_refused_or_answered(server: LiveServer, more: dict[str, Any]) -> None:
    body = {"messages": HELLO, "max_tokens": 4, "reasoning_effort": "none", **more}
    assert server.post("/v1/chat/completions", body).status in (200, 400, 413)
    assert server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1}).status == 200
