"""What a template reads: found by parsing it, chosen by callers, refused if it is not read.

The templates are written for these tests, with what those of Qwen3.5, 3.6 and 3.8 do; the oracle is transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from oracles.paths import TEMPLATES
from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.chat.template import ChatTemplate, check_messages
from qwen35_gguf.runtime.options import GenerateOptions

KINDS = {
    "qwen3.5": {"enable_thinking", "add_vision_id"},
    "qwen3.6": {"enable_thinking", "add_vision_id", "preserve_thinking"},
    "qwen3.8": {"enable_thinking", "add_vision_id", "preserve_thinking", "reasoning_effort"},
}
USER = {"role": "user", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}
THOUGHTFUL = {"role": "assistant", "content": "Hi.", "reasoning_content": "Greet them."}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
IMAGE = {"type": "image", "image": "a.png"}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [USER],
    [SYSTEM, USER],
    [{"role": "system", "content": " "}, USER],
    [USER, THOUGHTFUL, USER, THOUGHTFUL, USER],
    [SYSTEM, USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "rain"}],
    [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What?"}, IMAGE]}],
]


def source(kind: str) -> str:
    return (TEMPLATES / f"{kind}.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Callable[..., Path]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(checkpoint())


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_template_reads_is_found(kind: str) -> None:
    assert ChatTemplate(source(kind)).options == KINDS[kind]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{% for message in messages %}{{ message.content }}{% endfor %}", set()),
        ("{% set a = b | default(1) %}{{ a }}", {"b"}),
        ("{% macro m(x) %}{{ x }}{{ y }}{% endmacro %}{{ m(1) }}{{ range(3) }}{{ strftime_now('%d') }}", {"y"}),
        ("{% if flag is not defined %}{% set flag = true %}{% endif %}{{ flag }}", {"flag"}),
        ("{{ bos_token }}{{ tools }}{{ documents }}{{ raise_exception('no') }}{{ namespace() }}", set()),
    ],
)
def test_what_is_set_or_always_given_is_no_option(text: str, found: set[str]) -> None:
    assert ChatTemplate(text).options == found


def test_the_template_for_tools_counts_too() -> None:
    assert ChatTemplate("{{ a }}", tool_use="{{ b }}").options == {"a", "b"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
def test_text_is_that_of_transformers(tokenizer: Any, kind: str, tools: Any, number: int) -> None:
    messages, template = check_messages(CONVERSATIONS[number]), ChatTemplate(source(kind))
    for thinking in (None, False):
        for options in ({}, {"preserve_thinking": True}, {"reasoning_effort": "low"}, {"add_vision_id": True}):
            if set(options) - KINDS[kind]:
                continue
            given = options | ({} if thinking is None else {"enable_thinking": thinking})
            expected = tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True, chat_template=source(kind), **given
            )
            assert template.render(messages, tools=tools, enable_thinking=thinking, options=options) == expected


def test_thoughts_of_earlier_answers_are_kept_if_that_is_wanted() -> None:
    messages = check_messages([USER, THOUGHTFUL, USER])
    for kind in ("qwen3.6", "qwen3.8"):
        template = ChatTemplate(source(kind))
        assert "Greet them." not in template.render(messages)
        assert "Greet them." in template.render(messages, options={"preserve_thinking": True})


def test_effort_is_a_part_of_the_system_message() -> None:
    template = ChatTemplate(source("qwen3.8"))
    by_default = template.render([USER])
    assert "<|im_start|>system" not in by_default
    assert (
        by_default
        == template.render([USER], reasoning_effort="xhigh")
        == template.render([SYSTEM | {"content": ""}, USER])
    )
    low, medium = (template.render([USER], reasoning_effort=effort) for effort in ("low", "medium"))
    assert low.startswith("<|im_start|>system\nThink briefly before you answer.<|im_end|>\n")
    assert len({by_default, low, medium}) == 3
    assert "Be kind.\n\nThink briefly" in template.render([SYSTEM, USER], options={"reasoning_effort": "low"})
    assert "Think briefly" not in template.render([USER], enable_thinking=False, reasoning_effort="low")


def test_an_effort_that_a_template_does_not_know_becomes_the_nearest() -> None:
    template = ChatTemplate(source("qwen3.8"))
    assert template.render([USER], reasoning_effort="minimal") == template.render([USER], reasoning_effort="low")
    assert template.render([USER], reasoning_effort="max") == template.render([USER], reasoning_effort="xhigh")
    for given in ({"reasoning_effort": "lots"}, {"options": {"reasoning_effort": "minimal"}}):
        with pytest.raises(MessageError, match="reasoning_effort is not one of low"):
            template.render([USER], **given)
    assert ChatTemplate(source("qwen3.5")).render([USER], reasoning_effort="lots")


@pytest.mark.parametrize("kind", KINDS)
def test_messages_without_a_user_are_refused(kind: str) -> None:
    with pytest.raises(MessageError, match="refuses the messages .There is no message of a user"):
        ChatTemplate(source(kind)).render([SYSTEM])


def test_what_a_template_does_not_read_is_refused_with_what_it_reads() -> None:
    message = (
        "template_options: the file's chat template does not read effort; "
        "it reads add_vision_id, enable_thinking, preserve_thinking"
    )
    with pytest.raises(MessageError) as caught:
        ChatTemplate(source("qwen3.6")).render([USER], options={"effort": "low"})
    assert str(caught.value) == message
    with pytest.raises(MessageError, match="it reads none"):
        ChatTemplate("{{ messages }}").render([USER], options={"effort": "low"})


@pytest.fixture(scope="module")
def file(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a template of the third kind."""
    from qwen35_gguf.convert import hf_to_gguf
    from qwen35_gguf.gguf_file.reader import read_header
    from qwen35_gguf.release import metadata_edit

    made = hf_to_gguf.convert(checkpoint(tied=False), "F32", tmp_path_factory.mktemp("options"))[0]
    entry = metadata_edit.new_entry(read_header(made), "tokenizer.chat_template", source("qwen3.8"))
    metadata_edit.change(made, replace=[entry])
    return made


def test_a_request_comes_before_its_model(file: Path) -> None:
    defaults = {"reasoning_effort": "low", "enable_thinking": False}
    with Qwen35(file, n_ctx=512, n_threads=1, template_options=defaults) as model:
        other = {"template_options": {"enable_thinking": True, "reasoning_effort": "high"}}
        wanted = [GenerateOptions.of(None, given) for given in ({}, {"thinking": True}, other)]
        with model.texts() as texts:
            prompts = [texts.render([USER], one) for one in wanted]
        assert prompts[0].endswith("<think>\n\n</think>\n\n")
        assert "Think briefly" in prompts[1]
        assert "Think briefly" not in prompts[2]
        assert prompts[2].endswith("<think>\n")
        with pytest.raises(MessageError, match="does not read colour; it reads add_vision_id, enable_thinking"):
            model.chat([USER], chat_template_kwargs={"colour": "red"}, max_tokens=1)
        with pytest.raises(MessageError, match="are two names of one option"):
            model.chat([USER], chat_template_kwargs={"add_vision_id": True}, template_options={}, max_tokens=1)


def test_a_model_is_not_loaded_with_options_that_its_template_does_not_read(file: Path) -> None:
    with pytest.raises(MessageError, match="does not read colour; it reads"):
        Qwen35(file, n_ctx=512, n_threads=1, template_options={"colour": "red"})
