"""The Messages API, asked by Anthropic's own client over a real connection."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from inputs.chat_requests import HELLO
from inputs.live_server import LiveServer

anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed")

WEATHER = {
    "name": "weather",
    "description": "Get the weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
SHORT: dict[str, Any] = {"model": "demo", "max_tokens": 16, "messages": HELLO, "extra_body": {"temperature": 0}}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0, timeout=60) as made:
        yield made


def red_square() -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def streamed(client: Any, **request: Any) -> tuple[Any, list[str]]:
    """The message that the client makes of the events, and their kinds."""
    with client.messages.stream(**request) as stream:
        kinds = [event.type for event in stream]
        return stream.get_final_message(), kinds


def test_an_answer_is_text_without_thinking(client: Any) -> None:
    message = client.messages.create(**SHORT, system="Answer briefly.")
    assert (message.type, message.role, message.model) == ("message", "assistant", "demo")
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.output_tokens <= 16


def test_the_events_make_the_same_message(client: Any) -> None:
    request = SHORT | {"thinking": {"type": "enabled", "budget_tokens": 4}, "max_tokens": 60}
    whole = client.messages.create(**request)
    message, kinds = streamed(client, **request)
    assert [block.to_dict() for block in message.to_param()["content"]] == [block.to_dict() for block in whole.content]
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert whole.content[0].signature
    assert message.stop_reason == whole.stop_reason
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


def test_a_stop_sequence_is_named_as_the_reason(client: Any) -> None:
    answer = client.messages.create(**SHORT | {"max_tokens": 40}).content[0].text
    stop = answer.split()[1]
    request = SHORT | {"max_tokens": 40, "stop_sequences": ["never in it", stop]}
    whole = client.messages.create(**request)
    message, _ = streamed(client, **request)
    for each in (whole, message):
        assert (each.stop_reason, each.stop_sequence) == ("stop_sequence", stop)
        assert each.content[0].text == answer[: answer.index(stop)]
    assert whole._request_id.startswith("req_")


def test_models_are_listed(client: Any) -> None:
    assert [model.display_name for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").type == "model"


def test_thinking_may_be_hidden_and_comes_back_in_the_next_turn(client: Any) -> None:
    hidden = {"type": "adaptive", "display": "omitted"}
    message, kinds = streamed(client, **(SHORT | {"max_tokens": 200}), thinking=hidden)
    assert message.content[0].type == "thinking"
    assert message.content[0].thinking == ""
    assert message.content[0].signature
    assert "thinking" not in kinds
    turns = [*HELLO, message.to_param(), {"role": "user", "content": "Hello"}]
    assert client.messages.create(**SHORT | {"messages": turns}).content


def test_effort_and_budget_limit_the_thinking(client: Any) -> None:
    request = SHORT | {"max_tokens": 400, "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
    assert client.messages.create(**request).content[0].type == "thinking"
    details = client.messages.create(**SHORT | {"max_tokens": 200, "thinking": {"type": "enabled", "budget_tokens": 2}})
    assert details.usage.output_tokens_details.thinking_tokens <= 40


def test_usage_tells_what_was_reused(client: Any) -> None:
    request = SHORT | {"system": [{"type": "text", "text": "Be kind. " * 40, "cache_control": {"type": "ephemeral"}}]}
    client.messages.create(**request)
    usage = client.messages.create(**request).usage
    assert usage.cache_read_input_tokens > usage.input_tokens
    counted = client.messages.count_tokens(model="demo", messages=HELLO, system=request["system"])
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    final, _ = streamed(client, **request)
    assert final.usage.cache_read_input_tokens == usage.cache_read_input_tokens


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_tools_are_called_and_their_results_are_read(client: Any, choice: dict[str, Any]) -> None:
    request = SHORT | {"max_tokens": 80, "tools": [WEATHER]}
    choice = {**choice, "disable_parallel_tool_use": True}
    message = client.messages.create(**request, tool_choice=choice)
    assert message.stop_reason == "tool_use"
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert call.name == "weather"
    assert isinstance(call.input["city"], str)
    same, kinds = streamed(client, **request, tool_choice=choice)
    assert [block.input for block in same.content if block.type == "tool_use"] == [call.input]
    assert "input_json" in kinds
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "21 degrees"}]}
    follow = [*HELLO, message.to_param(), {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]}]
    assert client.messages.create(**request | {"messages": follow}, tool_choice={"type": "none"}).content


def test_arguments_come_before_the_call_is_complete(client: Any) -> None:
    """The answer ends in the middle of a long text: its pieces came; complete arguments are those before it."""
    form = {"type": "object", "properties": {"n": {"enum": [5]}, "text": {"type": "string", "minLength": 1200}}}
    tool = {"name": "write", "input_schema": {**form, "required": ["n", "text"], "additionalProperties": False}}
    request = SHORT | {"max_tokens": 120, "tools": [tool], "tool_choice": {"type": "any"}}
    with client.messages.stream(**request) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    assert len(pieces) > 10
    assert "".join(pieces).startswith('{"n": 5, "text": "')
    whole = client.messages.create(**request)
    for each in (message, whole):
        assert each.stop_reason == "max_tokens"
        assert [(block.name, block.input) for block in each.content] == [("write", {"n": 5})]


def test_a_schema_that_cannot_be_enforced_is_shown_only(client: Any) -> None:
    odd = {**WEATHER, "input_schema": {"type": "object", "properties": {"city": {"not": {"type": "null"}}}}}
    assert client.messages.create(**SHORT, tools=[odd]).content
    with pytest.raises(anthropic.BadRequestError, match="not"):
        client.messages.create(**SHORT, tools=[{**odd, "strict": True}])


def test_the_answer_follows_a_schema(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "schema": schema}}
    message = client.messages.create(**SHORT | {"max_tokens": 60}, output_config=form)
    assert json.loads(message.content[0].text)["n"] in range(1, 10)


def test_images_are_seen(client: Any) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": red_square()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What color is it?"}]
    messages = [{"role": "user", "content": content}]
    message = client.messages.create(**SHORT | {"messages": messages})
    assert "red" in message.content[0].text.lower()
    without = client.messages.count_tokens(model="demo", messages=[{"role": "user", "content": content[1:]}])
    assert client.messages.count_tokens(model="demo", messages=messages).input_tokens > without.input_tokens


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"max_tokens": 0}, "BadRequestError", "max_tokens"),
        ({"messages": []}, "BadRequestError", "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "BadRequestError", "role"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hi"}]}, "BadRequestError", "the last one"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "BadRequestError", "content[0].type"),
        ({"messages": [{"role": "user", "content": [7]}]}, "BadRequestError", "content[0]"),
        ({"extra_body": {"temperature": "warm"}}, "BadRequestError", "temperature"),
        ({"thinking": {"type": "maybe"}}, "BadRequestError", "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 99}}, "BadRequestError", "budget_tokens"),
        ({"output_config": {"effort": "huge"}, "thinking": {"type": "adaptive"}}, "BadRequestError", "effort"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "BadRequestError", "tools[0].type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "some"}}, "BadRequestError", "tool_choice.type"),
        ({"stop_sequences": "END"}, "BadRequestError", "stop_sequences"),
        ({"system": [{"type": "image"}]}, "BadRequestError", "system"),
        ({"model": "other"}, "NotFoundError", "other"),
        ({"messages": [{"role": "user", "content": "a " * 5000}]}, "BadRequestError", "context"),
    ],
)
def test_wrong_requests_get_the_errors_of_the_original(client: Any, changes: Any, kind: str, text: str) -> None:
    for stream in (False, True):
        with pytest.raises(getattr(anthropic, kind)) as caught:
            client.messages.create(**SHORT | changes, stream=stream)
        assert caught.value.body["type"] == "error"
        assert caught.value.body["error"]["type"] == {"NotFoundError": "not_found_error"}.get(
            kind, "invalid_request_error"
        )
        assert text in caught.value.body["error"]["message"]


def test_a_key_is_taken_as_the_client_sends_it(start: Any) -> None:
    guarded = start(api_keys=("right",))
    with anthropic.Anthropic(base_url=guarded.url, api_key="right", max_retries=0) as allowed:
        assert allowed.messages.create(**SHORT).content
    with (
        anthropic.Anthropic(base_url=guarded.url, api_key="wrong", max_retries=0) as refused,
        pytest.raises(anthropic.AuthenticationError),
    ):
        refused.messages.create(**SHORT)
