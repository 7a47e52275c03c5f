"""Chat templates: rendered as transformers renders them, in a sandbox, from messages that were checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.chat.template import ChatTemplate, check_messages

CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich", "days": 2}'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
IMAGE, VIDEO = {"type": "image", "image": "a.png"}, {"type": "video", "video": "a.mp4"}
USER = {"role": "user", "content": "Hello <b>there</b>"}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one message": [USER],
    "system": [{"role": "system", "content": "Be kind."}, USER],
    "reasoning in the history": [
        USER,
        {"role": "assistant", "content": "Hi.", "reasoning_content": "Greet them."},
        {"role": "user", "content": "Again?"},
    ],
    "reasoning written into the content": [
        USER,
        {"role": "assistant", "content": "<think>\nGreet them.\n</think>\n\nHi."},
        {"role": "user", "content": "Again?"},
    ],
    "a call and its result": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ],
    "parts": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What?"}, VIDEO]}],
}


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Callable[..., Path]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(checkpoint())


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("thinking", [None, False, True])
def test_text_is_that_of_transformers(tokenizer: Any, name: str, tools: Any, thinking: bool | None) -> None:
    messages = check_messages(CONVERSATIONS[name])
    options = {} if thinking is None else {"enable_thinking": thinking}
    expected = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True, **options
    )
    template = ChatTemplate(tokenizer.chat_template, eos_token=tokenizer.eos_token or "")
    assert template.render(messages, tools=tools, enable_thinking=thinking) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no system message') }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
    ],
)
def test_what_a_template_may_not_or_will_not_do(source: str) -> None:
    with pytest.raises(MessageError, match="chat template: refuses the messages") as caught:
        ChatTemplate(source).render([USER])
    assert "\n" not in str(caught.value)


def test_a_template_that_is_none() -> None:
    with pytest.raises(MessageError, match="chat template: cannot be compiled"):
        ChatTemplate("{% if %}")


def test_requests_with_tools_have_a_template_of_their_own() -> None:
    template = ChatTemplate("plain", tool_use="tools {{ tools | length }}")
    assert (template.render([USER]), template.render([USER], tools=TOOLS)) == ("plain", "tools 1")
    with pytest.raises(MessageError, match="chat template: cannot be compiled"):
        ChatTemplate("plain", tool_use="{% if %}")


def test_a_block_for_training_is_rendered_as_its_content() -> None:
    assert ChatTemplate("a{% generation %}b{% endgeneration %}c").render([USER]) == "abc"


def test_developer_is_system_and_no_content_is_empty() -> None:
    checked = check_messages([{"role": "developer", "content": "x"}, {"role": "assistant", "content": None}])
    assert [message["role"] for message in checked] == ["system", "assistant"]
    assert checked[1]["content"] == ""
