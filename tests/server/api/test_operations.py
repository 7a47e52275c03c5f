"""State, counts, tokenizer and template."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inputs.chat_requests import HELLO, LONG_ANSWERS, TOOL
from inputs.live_server import LiveServer, serving
from qwen35_gguf.runtime import Qwen35, async_model
from qwen35_gguf.runtime.options import LoadOptions

TEXT = "Grüße, <|im_start|>世界 🙂"


def test_health_and_models(server: LiveServer) -> None:
    assert server.get("/health").json == {"status": "ok"}
    (model,) = server.get("/v1/models").json["data"]
    assert model["id"] == "demo"
    assert server.get("/v1/models/demo").json == model
    assert server.get("/v1/models/other").status == 404
    assert server.get("/nothing").json["error"]["type"] == "invalid_request_error"
    assert server.get("/v1/chat/completions").status == 405


def test_health_while_a_model_is_loaded(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load is a real one; it is held at its beginning."""
    from qwen35_gguf.server.app import create_app
    from qwen35_gguf.server.models import Models
    from qwen35_gguf.server.settings import ServerSettings

    begun, go = threading.Event(), threading.Event()

    class Held(Qwen35):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            begun.set()
            assert go.wait(60)
            super().__init__(*arguments, **keywords)

    monkeypatch.setattr(async_model, "Qwen35", Held)
    models = Models({"demo": LoadOptions(demo, n_ctx=1024, n_threads=1, draft=0)})
    with serving(create_app(ServerSettings(), models, preload=True)) as server:
        assert begun.wait(60)
        for _ in range(3):
            answer = server.get("/health")
            assert (answer.status, answer.json) == (503, {"status": "loading"})
        assert server.get("/v1/models/demo").json["state"] == "loading"
        go.set()
        answer = server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1})  # it waits for the model
        assert answer.status == 200
        answer = server.get("/health")
        assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize("fits", [True, False])
def test_health_while_a_second_model_is_loaded(demo: Path, monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    """Beside the first one, or in its place: requests are answered, or wait, and nobody should end the server."""
    from qwen35_gguf.runtime.loading import planned_bytes
    from qwen35_gguf.server.app import create_app
    from qwen35_gguf.server.models import Models
    from qwen35_gguf.server.settings import ServerSettings

    begun, go, loads = threading.Event(), threading.Event(), list[int]()

    class Held(Qwen35):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            loads.append(1)
            if len(loads) == 2:
                begun.set()
                assert go.wait(60)
            super().__init__(*arguments, **keywords)

    monkeypatch.setattr(async_model, "Qwen35", Held)
    options = LoadOptions(demo, n_ctx=1024, n_threads=1, draft=0)
    memory = planned_bytes(options, 1 << 40) * (3 if fits else 1)
    ask = {"messages": HELLO, "max_tokens": 1}
    with serving(create_app(ServerSettings(), Models({"one": options, "two": options}, memory=memory))) as server:
        assert server.get("/health").status == 200  # nothing is loaded before it is asked for
        assert server.post("/v1/chat/completions", {"model": "one", **ask}).status == 200
        second = threading.Thread(target=server.post, args=("/v1/chat/completions", {"model": "two", **ask}))
        second.start()
        try:
            assert begun.wait(60)
            assert server.get("/v1/models/two").json["state"] == "loading"
            answer = server.get("/health")
            assert (answer.status, answer.json) == (200, {"status": "ok"})
            if fits:
                assert server.post("/v1/chat/completions", {"model": "one", **ask}).status == 200
        finally:
            go.set()
            second.join()
        assert server.get("/health").status == 200


def test_tokens_become_their_text_again(server: LiveServer) -> None:
    tokens = server.post("/tokenize", {"content": TEXT}).json["tokens"]
    assert server.post("/detokenize", {"tokens": tokens}).json["content"] == TEXT
    plain = server.post("/tokenize", {"content": TEXT, "parse_special": False}).json["tokens"]
    assert len(plain) > len(tokens)
    pieces = server.post("/tokenize", {"content": TEXT, "with_pieces": True}).json["tokens"]
    assert [piece["id"] for piece in pieces] == tokens
    data = [piece["piece"].encode() if isinstance(piece["piece"], str) else bytes(piece["piece"]) for piece in pieces]
    assert b"".join(data).decode() == TEXT


@pytest.mark.parametrize("body", [{}, {"tokens": "x"}, {"tokens": [True]}, {"tokens": [-1]}, {"tokens": [10**12]}])
def test_wrong_tokens_are_refused(server: LiveServer, body: object) -> None:
    assert server.post("/detokenize", body).status == 400
    assert server.post("/tokenize", body).status == 400


def test_the_template_is_applied_as_a_chat_does(server: LiveServer) -> None:
    body = {"messages": HELLO, "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}}
    prompt = server.post("/apply-template", body).json["prompt"]
    assert "Hello there" in prompt
    assert '"weather"' in prompt
    tokens = server.post("/tokenize", {"content": prompt}).json["tokens"]
    usage = server.post("/v1/chat/completions", {**body, "max_tokens": 1}).json["usage"]
    assert usage["prompt_tokens"] == len(tokens)


def test_props_name_the_template_and_no_path(server: LiveServer) -> None:
    props = server.get("/props").json
    assert "im_start" in props["chat_template"]
    assert props["n_ctx"] == 2048
    assert props["default_generation_settings"]["n_ctx"] == 2048
    assert props["modalities"] == {"vision": True, "audio": False}
    assert ".gguf" not in str(props)


def test_props_of_a_model_without_vision_encoder_tell_so(
    start: Callable[..., LiveServer], demo: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.gguf").symlink_to(demo)
    props = start(load={"path": tmp_path / "text.gguf"}).get("/props").json
    assert props["modalities"]["vision"] is False


def test_counts_are_in_the_format_of_prometheus(server: LiveServer) -> None:
    server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 2, "stream": True})
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.body.decode().splitlines()
    sample = re.compile(r'[a-z0-9_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? (\d+(\.\d+)?(e[+-]?\d+)?|\+Inf)')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in lines)
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
    assert found['qwen35_tokens_total{model="demo"}'] >= 2
    assert found['qwen35_prompt_tokens_total{model="demo"}'] > found['qwen35_reused_tokens_total{model="demo"}']
    assert found['qwen35_token_gap_seconds_count{model="demo"}'] >= 1
    assert found['qwen35_slots{model="demo"}'] == 4
    assert found['qwen35_slots_busy{model="demo"}'] == found['qwen35_queue{model="demo"}'] == 0
    assert found['qwen35_first_token_seconds_count{model="demo"}'] >= 1
    assert found['qwen35_requests_total{path="/v1/chat/completions",status="200"}'] >= 1
    assert found['qwen35_requests_running{model="demo"}'] == 0


def test_slots_tell_what_each_sequence_does(server: LiveServer) -> None:
    connection = server.connection()
    body = LONG_ANSWERS["/v1/chat/completions"] | {"stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    connection.getresponse().read(200)
    slots = server.get("/slots").json
    connection.close()
    assert [slot["id"] for slot in slots] == [0, 1, 2, 3]
    (busy,) = [slot for slot in slots if slot["is_processing"]]
    assert busy["state"] == "answer"
    assert busy["n_prompt_tokens"] == busy["n_prompt_tokens_processed"] > 0
    assert busy["n_decoded"] >= 1


def test_counts_outlive_a_model_that_is_unloaded(start: Callable[..., LiveServer]) -> None:
    server = start(models={"ttl": 0.01})
    server.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 2})
    end = time.monotonic() + 60
    while server.get("/v1/models").json["data"][0]["state"] != "unloaded":
        assert time.monotonic() < end
        time.sleep(0.1)
    text = server.get("/metrics").body.decode()
    assert 'qwen35_answers_total{model="demo"} 1' in text
    assert "qwen35_queue{" not in text
    assert server.get("/slots").json == []
