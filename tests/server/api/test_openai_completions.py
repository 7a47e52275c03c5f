"""Completions of texts over a real connection."""

from __future__ import annotations

from typing import Any

import pytest

from inputs.live_server import LiveServer

COMPLETIONS = "/v1/completions"
SHORT = {"prompt": "The capital of France", "max_tokens": 6, "temperature": 0}


def test_a_text_is_continued_as_a_whole_and_in_pieces(server: LiveServer) -> None:
    whole = server.post(COMPLETIONS, SHORT).json
    assert whole["object"] == "text_completion"
    assert whole["usage"]["completion_tokens"] <= 6
    *pieces, usage, done = server.post(
        COMPLETIONS, {**SHORT, "stream": True, "stream_options": {"include_usage": True}}
    ).events
    assert done == "[DONE]"
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == whole["choices"][0]["text"]
    assert usage["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_tokens_are_continued_as_their_text_is(server: LiveServer) -> None:
    tokens = server.post("/tokenize", {"content": SHORT["prompt"]}).json["tokens"]
    expected = server.post(COMPLETIONS, SHORT).json["choices"][0]["text"]
    assert server.post(COMPLETIONS, {**SHORT, "prompt": tokens}).json["choices"][0]["text"] == expected


def test_several_prompts_have_n_answers_each(server: LiveServer) -> None:
    # Greedily: what runs beside an answer changes the rounding of logits, and now and then a token that is drawn.
    body = {**SHORT, "prompt": ["One", "Two"], "n": 2, "echo": True, "temperature": 0}
    whole = server.post(COMPLETIONS, body).json
    texts = [choice["text"] for choice in whole["choices"]]
    assert [text[:3] for text in texts] == ["One", "One", "Two", "Two"]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    streamed = ["", "", "", ""]
    for piece in server.post(COMPLETIONS, {**body, "stream": True}).events[:-1]:
        for choice in piece["choices"]:
            streamed[choice["index"]] += choice["text"]
    assert streamed == texts


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": ["a"] * 100}, "prompt"),
        ({**SHORT, "suffix": "."}, "suffix"),
        ({**SHORT, "best_of": 3}, "best_of"),
        ({**SHORT, "n": 0}, "n"),
        ({**SHORT, "seed": "x"}, "seed"),
        ({**SHORT, "max_tokens": -1}, "max_tokens"),
    ],
)
def test_wrong_requests_get_an_error_object(server: LiveServer, body: Any, param: str) -> None:
    for stream in (False, True):
        answer = server.post(COMPLETIONS, {**body, "stream": stream})
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
