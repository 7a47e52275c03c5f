"""Whether the chat template writes what users send: system messages, several turns, tools, no thinking, pictures.

A template is a program from the file: it runs in jinja2's sandbox only (`runtime.template`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qwen35_gguf.errors import MessageError
from qwen35_gguf.release.lint.diagnostic import Finding, Subject
from qwen35_gguf.runtime.chat import tool_calls
from qwen35_gguf.runtime.chat.template import ChatTemplate, check_messages

KEY = "tokenizer.chat_template"
ADVICE = "take chat_template.jinja from the checkpoint: `qwen35 metadata FILE set tokenizer.chat_template FILE --file`"
TURN = "<|im_start|>"

Messages = list[dict[str, Any]]

USER: Messages = [{"role": "user", "content": "first question"}]
SYSTEM: Messages = [{"role": "system", "content": "be brief"}, *USER]
TURNS: Messages = [*USER, {"role": "assistant", "content": "an answer"}, {"role": "user", "content": "a second one"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather_at",
            "description": "Look the weather up.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather_at", "arguments": {"city": "Ulm"}}}
CALLED: Messages = [
    *USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny spells"},
]
PARTS: Messages = [{"role": "user", "content": [{"type": "text", "text": "a text part"}]}]
PICTURE: Messages = [
    {"role": "user", "content": [{"type": "image", "image": ""}, {"type": "text", "text": "what is it"}]}
]

# name, messages, tools, words that have to be in the text; what is left out of it is lost in silence
SCENES: tuple[tuple[str, Messages, Any, tuple[str, ...]], ...] = (
    ("a user's message", USER, None, ("first question",)),
    ("a system message", SYSTEM, None, ("be brief", "first question")),
    ("several turns", TURNS, None, ("first question", "an answer", "a second one")),
    ("tools", USER, TOOLS, ("weather_at", "first question")),
    ("a tool's call and its result", CALLED, TOOLS, ("weather_at", "Ulm", "sunny spells")),
    ("content in parts", PARTS, None, ("a text part",)),
)


def chat_template(subject: Subject) -> Iterator[Finding]:
    """Check that the template is there, and writes each of the scenes."""
    source = subject.get(KEY)
    if not source:
        what = "is missing; programs fall back on a template of another model"
        yield Finding("error", "chat template", KEY, what, ADVICE)
        return
    try:
        template = _compile(subject, source)
    except MessageError as error:
        yield Finding("error", "chat template", KEY, str(error), ADVICE)
        return
    for name, messages, tools, words in SCENES:
        yield from _scene(template, name, messages, tools, words)
    yield from _thinking(template)
    yield from _generation_prompt(template)


def pictures(subject: Subject) -> Iterator[Finding]:
    """With a vision tower, the template has to leave a place for a picture."""
    source = subject.get(KEY)
    if not source or not subject.towers:
        return
    try:
        yield from _scene(_compile(subject, source), "a picture", PICTURE, None, ("<|image_pad|>", "what is it"))
    except MessageError:
        return  # said already by `chat_template`


def _compile(subject: Subject, source: str) -> ChatTemplate:
    tokens, eos = subject.get("tokenizer.ggml.tokens", []), subject.number("tokenizer.ggml.eos_token_id", -1)
    return ChatTemplate(source, eos_token=tokens[eos] if 0 <= eos < len(tokens) else "")


def _render(template: ChatTemplate, messages: Messages, tools: Any = None, **options: Any) -> str:
    checked = tool_calls.check_tools(tools) if tools else None
    return template.render(check_messages(messages), tools=checked, **options)


def _scene(
    template: ChatTemplate, name: str, messages: Messages, tools: Any, words: tuple[str, ...]
) -> Iterator[Finding]:
    try:
        text = _render(template, messages, tools)
    except MessageError as error:
        yield Finding("error", "chat template", KEY, f"fails on {name}: {error}", ADVICE)
        return
    lost = [word for word in words if word not in text]
    if lost:
        # Without tools a model is of use; without the user's words it is not.
        severity = "warning" if tools or "parts" in name else "error"
        what = f"leaves {', '.join(map(repr, lost))} out when it writes {name}"
        yield Finding(severity, "chat template", KEY, what, ADVICE)  # type: ignore[arg-type]


def _thinking(template: ChatTemplate) -> Iterator[Finding]:
    texts = {}
    for wanted in (True, False):
        try:
            texts[wanted] = _render(template, USER, enable_thinking=wanted)
        except MessageError as error:
            what = f"fails with enable_thinking={str(wanted).lower()}: {error}"
            yield Finding("error", "chat template", KEY, what, ADVICE)
            return
    if texts[True] == texts[False]:
        what = "ignores enable_thinking; thinking cannot be switched off"
        yield Finding("warning", "chat template", KEY, what, ADVICE)


def _generation_prompt(template: ChatTemplate) -> Iterator[Finding]:
    try:
        without, text = (_render(template, USER, add_generation_prompt=wanted) for wanted in (False, True))
    except MessageError as error:
        yield Finding("error", "chat template", KEY, f"fails on add_generation_prompt: {error}", ADVICE)
        return
    if not text.startswith(without) or TURN not in text[len(without) :]:
        what = (
            "does not begin the assistant's turn when add_generation_prompt is set; the model would go on as the user"
        )
        yield Finding("error", "chat template", KEY, what, ADVICE)
