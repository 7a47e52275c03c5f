"""Whether the chat template renders what users send: system messages, several turns, tools, no thinking, images.

A template is a program from the file: it only runs in jinja2's sandbox (`runtime.chat.template`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from qwen35_gguf.errors import MessageError
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Subject
from qwen35_gguf.runtime.chat.template import ChatTemplate, check_messages
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools

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
IMAGE: Messages = [
    {"role": "user", "content": [{"type": "image", "image": ""}, {"type": "text", "text": "what is it"}]}
]

# Name, messages, tools, words that must be in the text: what a template leaves out is lost without an error.
SCENES: tuple[tuple[str, Messages, Any, tuple[str, ...]], ...] = (
    ("a user's message", USER, None, ("first question",)),
    ("a system message", SYSTEM, None, ("be brief", "first question")),
    ("several turns", TURNS, None, ("first question", "an answer", "a second one")),
    ("tools", USER, TOOLS, ("weather_at", "first question")),
    ("a tool's call and its result", CALLED, TOOLS, ("weather_at", "Ulm", "sunny spells")),
    ("content in parts", PARTS, None, ("a text part",)),
)


def chat_template(subject: Subject) -> Iterator[Diagnostic]:
    """Check that there is a template, and that it renders each of the scenes."""
    source = subject.get(KEY)
    if not source:
        what = "is missing; programs use a template of another model"
        yield Diagnostic("error", "chat template", KEY, what, ADVICE)
        return
    try:
        template = _compile(subject, source)
    except MessageError as error:
        yield Diagnostic("error", "chat template", KEY, str(error), ADVICE)
        return
    for name, messages, tools, words in SCENES:
        yield from _scene(template, name, messages, tools, words)
    yield from _thinking(template)
    yield from _generation_prompt(template)


def named(subject: Subject) -> Iterator[Diagnostic]:
    """Check that the templates with names can be compiled, and that the one for tools renders them."""
    for name in subject.get("tokenizer.chat_templates", []):
        key = f"{KEY}.{name}"
        source = subject.get(key)
        if not source:
            yield Diagnostic("error", "chat template", key, "is missing, but tokenizer.chat_templates names it", ADVICE)
            continue
        try:
            template = _compile(subject, source)
        except MessageError as error:
            yield Diagnostic("error", "chat template", key, str(error), ADVICE)
            continue
        if name == "tool_use":
            for scene, messages, tools, words in SCENES:
                if tools:
                    found = _scene(template, scene, messages, tools, words)
                    yield from (replace(one, where=key) for one in found)


def images(subject: Subject) -> Iterator[Diagnostic]:
    """Check that the template of a model with a vision encoder has a place for an image."""
    source = subject.get(KEY)
    if not source or not subject.vision_encoders:
        return
    try:
        yield from _scene(_compile(subject, source), "an image", IMAGE, None, ("<|image_pad|>", "what is it"))
    except MessageError:
        return  # `chat_template` reports it


def _compile(subject: Subject, source: str) -> ChatTemplate:
    tokens, eos = subject.get("tokenizer.ggml.tokens", []), subject.number("tokenizer.ggml.eos_token_id", -1)
    return ChatTemplate(source, eos_token=tokens[eos] if 0 <= eos < len(tokens) else "")


def _render(template: ChatTemplate, messages: Messages, tools: Any = None, **options: Any) -> str:
    checked = check_tools(tools) if tools else None
    return template.render(check_messages(messages), tools=checked, **options)


def _scene(
    template: ChatTemplate, name: str, messages: Messages, tools: Any, words: tuple[str, ...]
) -> Iterator[Diagnostic]:
    try:
        text = _render(template, messages, tools)
    except MessageError as error:
        yield Diagnostic("error", "chat template", KEY, f"fails on {name}: {error}", ADVICE)
        return
    lost = [word for word in words if word not in text]
    if lost:
        # A model is useful without tools, but not without the user's words.
        severity = "warning" if tools or "parts" in name else "error"
        what = f"leaves {', '.join(map(repr, lost))} out when it renders {name}"
        yield Diagnostic(severity, "chat template", KEY, what, ADVICE)  # type: ignore[arg-type]


def _thinking(template: ChatTemplate) -> Iterator[Diagnostic]:
    texts = {}
    for wanted in (True, False):
        try:
            texts[wanted] = _render(template, USER, enable_thinking=wanted)
        except MessageError as error:
            what = f"fails with enable_thinking={str(wanted).lower()}: {error}"
            yield Diagnostic("error", "chat template", KEY, what, ADVICE)
            return
    if texts[True] == texts[False]:
        what = "ignores enable_thinking; thinking cannot be turned off"
        yield Diagnostic("warning", "chat template", KEY, what, ADVICE)


def _generation_prompt(template: ChatTemplate) -> Iterator[Diagnostic]:
    try:
        without, text = (_render(template, USER, add_generation_prompt=wanted) for wanted in (False, True))
    except MessageError as error:
        yield Diagnostic("error", "chat template", KEY, f"fails on add_generation_prompt: {error}", ADVICE)
        return
    if not text.startswith(without) or TURN not in text[len(without) :]:
        what = "does not begin the assistant's turn with add_generation_prompt; the model would continue as the user"
        yield Diagnostic("error", "chat template", KEY, what, ADVICE)
