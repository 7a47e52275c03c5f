"""What Qwen3.5's chat templates say in their own words, found by rendering one with marks in place of messages.

All of them have one form: ChatML turns, thoughts in `<think>`, calls in `<function=...>` and `<parameter=...>`. They
differ in how tools are introduced, what stands before a call, whether results share a turn, and whether thinking is the
default. A template of another form, such as one that writes calls as JSON, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.runtime.chat.template import ChatTemplate

CLOSE = "<|im_end|>\n"
THINK = ("<think>\n", "\n</think>\n\n")  # for a template that does not take thoughts apart from the answer

SYSTEM, ASKED, ANSWER, THOUGHT, RESULT, OTHER = (f"qq{i}qq" for i in range(6))
QUESTION = f"<|im_start|>user\n{ASKED}{CLOSE}<|im_start|>assistant\n"
USER = {"role": "user", "content": ASKED}
TOLD = {"role": "system", "content": SYSTEM}
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
    """The template is of another form than Qwen3.5's."""


@dataclass(frozen=True)
class Form:
    """The words of a template.

    Attributes:
        prompts: what an answer begins with: by default, with thinking asked for, without.
        thought: before and after the thoughts of an answer to the last question.
        unthought: in place of them where there are none.
        calls: before the first call, before the first one behind a text, before every other one.
        as_python: an argument that is True, False or None is written so, and not as JSON.
        results: before the first result of a tool, between two, after the last one.
        tools: before the first tool, between two, after the last one.
        only_functions: of a tool its function is written, without the type.
        system: into which of `tools` the system message goes (0 or 2), and behind how many characters.
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
    """Find the words of a template.

    Raises:
        OtherFormError: it is of another form.
        MessageError: it refuses what Qwen3.5's takes.

    """
    _check_turns(template)
    asked, thoughtful, without = (
        _behind(_render(template, USER, add_generation_prompt=True, enable_thinking=wanted), QUESTION)
        for wanted in (None, True, False)
    )
    unthought, end = _cut(_behind(_render(template, USER, GIVEN), QUESTION), ANSWER)
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
    messages = [TOLD, USER, GIVEN, {"role": "user", "content": OTHER}]
    if _render(template, *messages) != "".join(turn(m["role"], m["content"]) for m in messages):
        raise OtherFormError


def _thought(template: ChatTemplate) -> tuple[str, str]:
    text = _behind(_render(template, USER, GIVEN | {"reasoning_content": THOUGHT}), QUESTION)
    if THOUGHT not in text:
        return THINK
    before, behind, _ = _cut(text, THOUGHT, ANSWER)
    return before, behind


def _calls(template: ChatTemplate, start: str) -> tuple[tuple[str, str, str], bool]:
    """Find what stands between calls, and how arguments are written."""
    said = _behind(_render(template, USER, GIVEN | {"tool_calls": _openai(CALLS)}), start + ANSWER)
    silent = _behind(_render(template, USER, GIVEN | {"content": "", "tool_calls": _openai(CALLS)}), start)
    as_python = call_text(*CALLS[1], as_python=True) in said
    bodies = [call_text(*call, as_python=as_python) for call in CALLS]
    behind_text, other, third, end = _cut(said, *bodies)
    first, *rest = _cut(silent, *bodies)
    if third != other or rest != [other, other, end] or end != CLOSE:
        raise OtherFormError
    return (first, behind_text, other), as_python


def _openai(calls: tuple[tuple[str, dict[str, Any]], ...]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]


def _results(template: ChatTemplate) -> tuple[str, str, str]:
    calling = GIVEN | {"tool_calls": _openai(CALLS)}
    results = [{"role": "tool", "content": RESULT}, {"role": "tool", "content": OTHER}]
    text = _behind(_render(template, USER, calling, *results), _render(template, USER, calling))
    before, between, behind = _cut(text, RESULT, OTHER)
    return before, between, behind


def _tools(template: ChatTemplate) -> tuple[tuple[str, str, str], bool, tuple[int, int], tuple[str, str]]:
    """Find how tools are introduced, and where the system message goes then."""
    plain = _before(_render(template, USER, tools=TOOLS), turn("user", ASKED))
    told = _before(_render(template, TOLD, USER, tools=TOOLS), turn("user", ASKED))
    only_functions = json.dumps(TOOLS[0]) not in plain
    written = [json.dumps(tool["function"] if only_functions else tool) for tool in TOOLS]
    words, with_system = _cut(plain, *written), _cut(told, *written)
    place = 0 if SYSTEM in with_system[0] else 2
    if [*with_system[:place], words[place], *with_system[place + 1 :]] != words:
        raise OtherFormError
    at, added = _added(words[place], with_system[place])
    before, behind = _cut(added, SYSTEM)
    return (words[0], words[1], words[2]), only_functions, (place, at), (before, behind)


def _added(short: str, long: str) -> tuple[int, str]:
    """Find where a text was added to another one, and the text."""
    for at in range(len(short) + 1):
        if long.startswith(short[:at]) and long.endswith(short[at:]):
            return at, long[at : len(long) - len(short) + at]
    raise OtherFormError


def _render(template: ChatTemplate, *messages: Mapping[str, Any], **options: Any) -> str:
    return template.render(messages, **({"add_generation_prompt": False} | options))


def _cut(text: str, *marks: str) -> list[str]:
    """Return what is before, between and behind marks, of which each comes once and in this order."""
    pieces = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise OtherFormError
        pieces.append(before)
    return [*pieces, text]


def _behind(text: str, start: str) -> str:
    if not text.startswith(start):
        raise OtherFormError
    return text[len(start) :]


def _before(text: str, end: str) -> str:
    if not text.endswith(end):
        raise OtherFormError
    return text[: len(text) - len(end)]
