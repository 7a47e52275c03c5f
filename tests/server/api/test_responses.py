"""The Responses API, asked by OpenAI's own client over a real connection."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from inputs.chat_requests import LONG_TOOL
from inputs.live_server import LiveServer

openai = pytest.importorskip("openai", reason="openai is not installed")

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
SHORT: dict[str, Any] = {
    "model": "demo",
    "input": "Hello there",
    "max_output_tokens": 16,
    "temperature": 0,
    "reasoning": {"effort": "none"},
}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60) as made:
        yield made


def streamed(client: Any, **request: Any) -> tuple[Any, list[Any]]:
    """The response that the client makes of the events, and the events."""
    with client.responses.stream(**request) as stream:
        events = list(stream)
    last = events[-1].response
    return last, events


def same(one: Any, other: Any) -> None:
    """Compare two outputs, except for ids."""
    assert [item.to_dict() | {"id": "", "call_id": ""} for item in one] == [
        {key: value for key, value in item.to_dict().items() if not key.startswith("parsed")}
        | {"id": "", "call_id": ""}
        for item in other
    ]


def test_an_answer_is_a_message(client: Any) -> None:
    response = client.responses.create(**SHORT, instructions="Answer briefly.", metadata={"a": "b"})
    assert response.output_text
    assert [item.type for item in response.output] == ["message"]
    assert response.status in ("completed", "incomplete")
    assert response.metadata == {"a": "b"}
    assert response.usage.output_tokens <= 16
    assert (response.incomplete_details is not None) == (response.status == "incomplete")


def test_the_events_make_the_same_response(client: Any) -> None:
    request = {**SHORT, "reasoning": {"effort": "high"}, "max_output_tokens": 300}
    whole = client.responses.create(**request)
    response, events = streamed(client, **request)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert response.output_text == whole.output_text
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert [item.type for item in response.output] == ["reasoning", "message"]
    for name, item in (("reasoning_text", response.output[0]), ("output_text", response.output[1])):
        pieces = [event.delta for event in events if event.type == f"response.{name}.delta"]
        assert "".join(pieces) == item.content[0].text
    assert whole.usage.output_tokens_details.reasoning_tokens > 0


def test_a_response_continues_an_earlier_one(client: Any) -> None:
    first = client.responses.create(**SHORT)
    second = client.responses.create(**SHORT | {"input": "And now?"}, previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0
    third, _ = streamed(client, **SHORT | {"input": "Bye"}, previous_response_id=second.id)
    assert third.usage.input_tokens > second.usage.input_tokens
    by_hand = [
        {"role": "user", "content": "Hello there"},
        *(item.to_dict() for item in first.output),
        {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
    ]
    assert client.responses.create(**SHORT | {"input": by_hand}).usage.input_tokens == second.usage.input_tokens


def test_responses_are_kept_until_they_are_deleted(client: Any) -> None:
    kept = client.responses.create(**SHORT)
    assert client.responses.retrieve(kept.id).output_text == kept.output_text
    assert client.responses.input_items.list(kept.id).data
    client.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(kept.id)
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(**SHORT, previous_response_id=kept.id)
    passing = client.responses.create(**SHORT, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(passing.id)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_tools_are_called_and_their_results_are_read(client: Any, choice: Any) -> None:
    request = SHORT | {"max_output_tokens": 80, "tools": [WEATHER], "parallel_tool_calls": False}
    response = client.responses.create(**request, tool_choice=choice)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert isinstance(json.loads(call.arguments)["city"], str)
    again, events = streamed(client, **request, tool_choice=choice)
    assert [item.arguments for item in again.output if item.type == "function_call"] == [call.arguments]
    assert any(event.type == "response.function_call_arguments.delta" for event in events)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    request |= {"input": [result], "previous_response_id": response.id, "tool_choice": "none"}
    assert client.responses.create(**request).output_text


def test_arguments_come_before_the_call_is_complete(client: Any) -> None:
    """The answer ends in the middle of a long text: its pieces came, and the whole answer has the same."""
    tool = {"type": "function", **LONG_TOOL["function"], "strict": True}
    request = SHORT | {"max_output_tokens": 120, "tools": [tool], "tool_choice": "required"}
    client.responses.create(**request)  # from now on the prompt is known: the same calls, and rounding
    whole = client.responses.create(**request)
    again, events = streamed(client, **request)
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert len(pieces) > 10
    for response in (whole, again):
        (call,) = response.output
        assert (response.status, call.status, call.name) == ("incomplete", "incomplete", "write")
        assert call.arguments == "".join(pieces)
    follow = {**SHORT, "input": "And now?", "previous_response_id": whole.id}
    assert client.responses.create(**follow).output_text


def test_the_answer_follows_a_schema(client: Any) -> None:
    from pydantic import BaseModel, Field

    class Answer(BaseModel):
        n: int = Field(ge=1, le=9)

    response = client.responses.parse(**SHORT | {"max_output_tokens": 60}, text_format=Answer)
    assert response.output_parsed.n in range(1, 10)


def test_images_are_seen(client: Any) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "What color is it?"}]
    response = client.responses.create(**SHORT | {"input": [{"role": "user", "content": content}]})
    assert "red" in response.output_text.lower()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "a"}]}, None),
        ({"temperature": -1}, "temperature"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"previous_response_id": "resp_unknown"}, "previous_response_id"),
    ],
)
def test_wrong_requests_get_the_errors_of_the_original(client: Any, changes: Any, param: str | None) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(**SHORT | changes, stream=stream)
        assert caught.value.body["type"] == "invalid_request_error"
        if param is not None:
            assert caught.value.param == param
