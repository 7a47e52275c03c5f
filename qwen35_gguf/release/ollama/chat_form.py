"""The texts in which Qwen3.5's chat templates differ, found by rendering one with markers in place of messages.

All of them have one form: ChatML turns, thoughts in `<think>`, calls in `<function=...>` and `<parameter=...>`. They
differ in how tools are introduced, in the text before a call, in whether results share a turn, and in whether thinking
is the default. A template of another form, such as one that writes calls as JSON, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.runtime.chat.template import ChatTemplate

CLOSE = "<|im_end|>\n"
THINK = ("<think>\n", "\n</think>\n\n")  # for a template without a field for thoughts

SYSTEM, ASKED, ANSWER, THOUGHT, RESULT, OTHER = (f"qq{i}qq" for i in range(6))
QUESTION = f"<|im_start|>user\n{ASKED}{CLOSE}<|im_start|>assistant\n"
USER = {"role": "user", "content": ASKED}
INSTRUCTED = {"role": "system", "content": SYSTEM}
GIVEN = {"role": "assistant", "content": ANSWER}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("one", "two")
]
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one", {"text": "a\nb <&>", "object": {"c": [1, True, None, {"d": "<&>"}], "e": {}}, "list": []}),
    ("two", {"number": 3, "yes": True, "no": False, "none": None}),
    ("three", {}),
)


class OtherFormError(Exception):
    """The template does not have Qwen3.5's form."""


@dataclass(frozen=True)
class Form:
    """The texts of a template.

    Attributes:
        prompts: beginning of an answer: by default, with thinking, without thinking.
        thought: before and after the thoughts of an answer to the last question.
        unthought: in place of them in an answer without thoughts.
        calls: before the first call, before the first call after a text, before every other call.
        as_python: True, False and None in arguments are written as in Python, not as JSON.
        results: before the first result of a tool, between two, after the last one.
        tools: before the first tool, between two, after the last one.
        only_functions: a tool is written as its function, without the type.
        system: in which of `tools` the system message is (0 or 2), and after how many characters.
        around_system: before and after it there.

    """

    prompts: tuple[str, str, str]
    thought: tuple[str, str]
    unthought: str
    calls: tuple[str, str, str]
    as_python: bool
    results: tuple[str, str, str]
    tools: tuple[str, str, str]
    only_functions: bool
    system: tuple[int, int]
    around_system: tuple[str, str]


def read_form(template: ChatTemplate) -> Form:
    """Find the texts of a template.

    Raises:
        OtherFormError: it has another form.
        MessageError: it refuses messages that Qwen3.5's accepts.

    """
    _check_turns(template)
    asked, thoughtful, without = (
        _after(_render(template, USER, add_generation_prompt=True, enable_thinking=wanted), QUESTION)
        for wanted in (None, True, False)
    )
    unthought, end = _split(_after(_render(template, USER, GIVEN), QUESTION), ANSWER)
    if end != CLOSE:
        raise OtherFormError
    calls, as_python = _calls(template, QUESTION + unthought)
    tools, only_functions, system, around_system = _tools(template)
    return Form(
        prompts=(asked, thoughtful, without),
        thought=_thought(template),
        unthought=unthought,
        calls=calls,
        as_python=as_python,
        results=_results(template),
        tools=tools,
        only_functions=only_functions,
        system=system,
        around_system=around_system,
    )


def turn(role: str, text: str) -> str:
    """Write one turn."""
    return f"<|im_start|>{role}\n{text}{CLOSE}"


def call_text(name: str, arguments: Mapping[str, Any], *, as_python: bool) -> str:
    """Write one call."""
    return "".join(
        [
            f"<tool_call>\n<function={name}>\n",
            *(f"<parameter={key}>\n{_argument(v, as_python)}\n</parameter>\n" for key, v in arguments.items()),
            "</function>\n</tool_call>",
        ]
    )


def _argument(value: Any, as_python: bool) -> str:
    if isinstance(value, str):
        return value
    return str(value) if as_python and not isinstance(value, dict | list) else json.dumps(value, ensure_ascii=False)


def _check_turns(template: ChatTemplate) -> None:
    messages = [INSTRUCTED, USER, GIVEN, {"role": "user", "content": OTHER}]
    if _render(template, *messages) != "".join(turn(m["role"], m["content"]) for m in messages):
        raise OtherFormError


def _thought(template: ChatTemplate) -> tuple[str, str]:
    text = _after(_render(template, USER, GIVEN | {"reasoning_content": THOUGHT}), QUESTION)
    if THOUGHT not in text:
        return THINK
    before, after, _ = _split(text, THOUGHT, ANSWER)
    return before, after


def _calls(template: ChatTemplate, start: str) -> tuple[tuple[str, str, str], bool]:
    """Find the texts between calls, and how arguments are written."""
    after_text = _after(_render(template, USER, GIVEN | {"tool_calls": _openai(CALLS)}), start + ANSWER)
    alone = _after(_render(template, USER, GIVEN | {"content": "", "tool_calls": _openai(CALLS)}), start)
    as_python = call_text(*CALLS[1], as_python=True) in after_text
    bodies = [call_text(*call, as_python=as_python) for call in CALLS]
    first_after_text, other, third, end = _split(after_text, *bodies)
    first, *rest = _split(alone, *bodies)
    if third != other or rest != [other, other, end] or end != CLOSE:
        raise OtherFormError
    return (first, first_after_text, other), as_python


def _openai(calls: tuple[tuple[str, dict[str, Any]], ...]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]


def _results(template: ChatTemplate) -> tuple[str, str, str]:
    calling = GIVEN | {"tool_calls": _openai(CALLS)}
    results = [{"role": "tool", "content": RESULT}, {"role": "tool", "content": OTHER}]
    text = _after(_render(template, USER, calling, *results), _render(template, USER, calling))
    before, between, after = _split(text, RESULT, OTHER)
    return before, between, after


def _tools(template: ChatTemplate) -> tuple[tuple[str, str, str], bool, tuple[int, int], tuple[str, str]]:
    """Find how tools are introduced, and where the system message is then."""
    plain = _before(_render(template, USER, tools=TOOLS), turn("user", ASKED))
    with_system_message = _before(_render(template, INSTRUCTED, USER, tools=TOOLS), turn("user", ASKED))
    only_functions = json.dumps(TOOLS[0]) not in plain
    written = [json.dumps(tool["function"] if only_functions else tool) for tool in TOOLS]
    words, with_system = _split(plain, *written), _split(with_system_message, *written)
    place = 0 if SYSTEM in with_system[0] else 2
    if [*with_system[:place], words[place], *with_system[place + 1 :]] != words:
        raise OtherFormError
    at, added = _added(words[place], with_system[place])
    before, after = _split(added, SYSTEM)
    return (words[0], words[1], words[2]), only_functions, (place, at), (before, after)


def _added(short: str, long: str) -> tuple[int, str]:
    """Find where a text was added to another one, and the text."""
    for at in range(len(short) + 1):
        if long.startswith(short[:at]) and long.endswith(short[at:]):
            return at, long[at : len(long) - len(short) + at]
    raise OtherFormError


def _render(template: ChatTemplate, *messages: Mapping[str, Any], **options: Any) -> str:
    return template.render(messages, **({"add_generation_prompt": False} | options))


def _split(text: str, *markers: str) -> list[str]:
    """Return the texts before, between and after markers, each of which occurs once and in this order."""
    pieces = []
    for marker in markers:
        before, found, text = text.partition(marker)
        if not found or marker in text:
            raise OtherFormError
        pieces.append(before)
    return [*pieces, text]


def _after(text: str, start: str) -> str:
    if not text.startswith(start):
        raise OtherFormError
    return text[len(start) :]


def _before(text: str, end: str) -> str:
    if not text.endswith(end):
        raise OtherFormError
    return text[: len(text) - len(end)]
