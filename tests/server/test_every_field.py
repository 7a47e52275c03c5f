"""Each field of each request takes each odd value in turn: an answer or a typed error, and the server stays up."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from server.test_malformed import BODIES, HELLO, KINDS, VALUES, places

from inputs.live_server import LiveServer

ODD: tuple[Any, ...] = (
    *VALUES, -0.0, 1e-320, 1 << 31, 1 << 63, 1 << 64, "nan", "1e400", " ", "\u202e", "a" * 5000, "\x1b[2J", [True],
    ["x"] * 100, [1e300], {"x": {"x": {"x": []}}}, {"type": []}, {"type": None, "": 0}, {"name": "f", "parameters": []},
)  # fmt: skip
STEP = 29  # of the fast test; prime, so that each value meets many fields


def changed(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(body)
    inside = made
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = copy.deepcopy(value)
    return made


def requests(path: str) -> list[Any]:
    body = BODIES[path]
    made = [changed(body, place, value) for place in places(body) for value in ODD]
    return made + [{**body, name: value} for name in EXTRA for value in ODD] + [{}, [], None, 1]


# Fields that the bodies do not have.
EXTRA = (
    "prompt", "suffix", "best_of", "echo", "logprobs", "top_logprobs", "max_completion_tokens", "thinking_budget",
    "grammar", "stop_loops", "user", "metadata", "previous_response_id", "instructions", "background", "container",
    "parse_special", "functions", "modalities", "min_p", "repeat_penalty", "dry_base", "xtc_probability", "system",
)  # fmt: skip
LIMITS = ("max_tokens", "max_output_tokens", "max_completion_tokens", "n")


def check(server: LiveServer, path: str, bodies: list[Any]) -> None:
    statuses = set()
    for body in bodies:
        if isinstance(body, dict):
            for limit in LIMITS:
                if isinstance(body.get(limit), int) and body[limit] > 1:
                    body[limit] = 1
        answer = server.post(path, json.dumps(body).encode())
        statuses.add(answer.status)
        assert answer.status in (200, 400, 404, 413), (path, body, answer.body[:500])
        if answer.status != 200:
            error = answer.json["error"]
            assert error["type"] in KINDS[path.startswith("/v1/messages")], (path, body, error)
            assert 0 < len(error["message"]) < 700, (path, body, error)
            assert error["message"].isprintable(), (path, body, error)
    assert {200, 400} <= statuses
    assert server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1}).status == 200


@pytest.mark.parametrize("path", BODIES)
def test_some_odd_values_of_each_field(path: str, server: LiveServer) -> None:
    check(server, path, [BODIES[path], *requests(path)[::STEP]])


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_every_odd_value_of_every_field(path: str, server: LiveServer) -> None:
    check(server, path, [BODIES[path], *requests(path)])
