"""OpenAI's own client parses everything that is sent, and sends what is understood."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from inputs.chat_requests import HELLO, LONG_TOOL, TOOL
from inputs.live_server import LiveServer

openai = pytest.importorskip("openai", reason="openai is not installed")

FORECAST = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat_and_stream(client: Any) -> None:
    whole = client.chat.completions.create(model="demo", messages=HELLO, temperature=0, max_completion_tokens=40)
    assert whole.usage.prompt_tokens_details.cached_tokens is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens > 0
    wanted = {"temperature": 0, "max_completion_tokens": 40, "stream_options": {"include_usage": True}}
    with client.chat.completions.stream(model="demo", messages=HELLO, **wanted) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.content == whole.choices[0].message.content
    assert streamed.choices[0].message.role == "assistant"
    assert streamed.usage.completion_tokens == whole.usage.completion_tokens


def test_sampling_options(client: Any) -> None:
    wanted: dict[str, Any] = {"seed": 7, "temperature": 1.2, "top_p": 0.9, "presence_penalty": 0.5}
    wanted |= {"frequency_penalty": 0.1, "logit_bias": {"5": -100}, "stop": ["zzz"], "n": 2, "user": "someone"}
    first, again = (
        client.chat.completions.create(model="demo", messages=HELLO, max_tokens=12, **wanted) for _ in range(2)
    )
    assert [choice.message.content for choice in first.choices] == [choice.message.content for choice in again.choices]
    assert len(first.choices) == 2


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_is_called(client: Any, choice: Any) -> None:
    wanted = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 300, "reasoning_effort": "none", "temperature": 0}
    whole = client.chat.completions.create(model="demo", messages=FORECAST, parallel_tool_calls=False, **wanted)
    assert whole.choices[0].finish_reason == "tool_calls"
    (call,) = whole.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert isinstance(json.loads(call.function.arguments), dict)
    with client.chat.completions.stream(model="demo", messages=FORECAST, parallel_tool_calls=False, **wanted) as stream:
        events = list(stream)
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert streamed.function.arguments == call.function.arguments
    assert any(event.type == "tool_calls.function.arguments.delta" for event in events)
    history = [
        *FORECAST,
        {"role": "assistant", "content": None, "tool_calls": [call.to_dict()]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    assert client.chat.completions.create(model="demo", messages=history, tools=[TOOL], max_tokens=5).choices


def test_arguments_come_before_the_call_is_complete(client: Any) -> None:
    """The answer ends in the middle of a long text: its pieces came, and the whole answer has the same."""
    wanted = {"tools": [LONG_TOOL], "tool_choice": "required", "max_tokens": 120, "temperature": 0}
    wanted |= {"model": "demo", "messages": FORECAST, "reasoning_effort": "none"}
    client.chat.completions.create(**wanted)  # from now on the prompt is known: the same calls, and rounding
    pieces = []
    for chunk in client.chat.completions.create(stream=True, **wanted):
        choice = chunk.choices[0]
        pieces += choice.delta.tool_calls or []
    assert choice.finish_reason == "length"
    assert [(piece.id is not None, piece.function.name, piece.type) for piece in pieces[:2]] == [
        (True, "write", "function"),
        (False, None, None),
    ]
    assert len(pieces) > 10
    assert all(piece.function.arguments for piece in pieces[1:])
    whole = client.chat.completions.create(**wanted).choices[0]
    assert whole.finish_reason == "length"
    (call,) = whole.message.tool_calls
    assert call.function.arguments == "".join(piece.function.arguments for piece in pieces)
    assert call.function.arguments.startswith('{"text": "')
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(call.function.arguments)


def test_json_schemas_are_obeyed(client: Any) -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
    kind = pydantic.create_model("City", name=(str, pydantic.Field(max_length=8)), inhabitants=(bool, ...))
    wanted = {"model": "demo", "messages": FORECAST, "max_tokens": 400, "reasoning_effort": "none"}
    parsed = client.chat.completions.parse(response_format=kind, **wanted).choices[0].message.parsed
    assert isinstance(parsed, kind)
    with client.chat.completions.stream(response_format=kind, **wanted) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, kind)


def test_log_probabilities_are_those_of_the_tokens(client: Any) -> None:
    wanted = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 12, "reasoning_effort": "none"}
    whole = client.chat.completions.create(logprobs=True, top_logprobs=3, **wanted).choices[0]
    tokens = whole.logprobs.content
    assert b"".join(bytes(one.bytes) for one in tokens).decode().strip() == whole.message.content.strip()
    for one in tokens:
        best = [other.logprob for other in one.top_logprobs]
        assert one.top_logprobs[0].token == one.token  # greedy
        assert best == sorted(best, reverse=True)
        assert one.logprob == best[0]
        assert 0 < sum(math.exp(logprob) for logprob in best) <= 1 + 1e-6
    streamed = []
    for chunk in client.chat.completions.create(logprobs=True, top_logprobs=3, stream=True, **wanted):
        streamed += chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else []
    assert streamed == tokens
    assert client.chat.completions.create(**wanted).choices[0].logprobs is None
    assert not client.chat.completions.create(logprobs=True, **wanted).choices[0].logprobs.content[0].top_logprobs
    for wrong in ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21}, {"logprobs": 3}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(extra_body=wrong, **wanted)


def test_images_are_seen(client: Any) -> None:
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    data = io.BytesIO()
    pil.new("RGB", (64, 64), (200, 30, 30)).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    found = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": parts}], max_tokens=4, temperature=0
    )
    assert found.usage.prompt_tokens > 64


def test_completions_and_models(client: Any) -> None:
    text = client.completions.create(model="demo", prompt="Once", max_tokens=4, temperature=0).choices[0].text
    pieces = client.completions.create(model="demo", prompt="Once", max_tokens=4, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == text
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "qwen35-gguf"


def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="other", messages=HELLO)
    assert error.value.code == "model_not_found"
    assert error.value.request_id.startswith("req_")
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="demo", messages=HELLO, temperature=-1)
    assert error.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "word " * 5000}])
    assert error.value.code == "context_length_exceeded"
