"""Render the file's chat template as transformers does, after checking the messages.

Source of the variables: `apply_chat_template` of transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from qwen35_gguf.errors import MessageError
from qwen35_gguf.jinja_environment import jinja_environment
from qwen35_gguf.runtime.chat import openai_types, tool_calls

ROLES = ("system", "developer", "user", "assistant", "tool")
# Of `control_tokens`, whose marks must survive; not after another backslash, and not the first half of a pair.
_ESCAPED_MARK = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d80[0-2])(?!\\ud[c-f])")
PARTS = ("text", "image", "image_url", "video", "video_url")


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """Check the messages of a request; the template checks the rest.

    The role "developer" becomes "system", and an assistant's missing content "".

    Raises:
        MessageError: not a list, an unknown role, or content that is neither text nor parts.
        ToolError: a malformed call, or the result of an unknown call.

    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise MessageError('messages: is not a list of messages; give [{"role": "user", "content": "..."}]')
    checked = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if isinstance(message, openai_types.Message):
            message = message.to_dict()
        if not isinstance(message, Mapping):
            raise MessageError(f"{where}: is not an object with role and content")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise MessageError(f"{where}: the role {str(role)[:60]!r} is unknown; use {', '.join(ROLES)}")
        if content is None and role == "assistant":
            content = ""
        if not isinstance(content, str):
            _check_parts(content, where)
        checked.append({**message, "role": "system" if role == "developer" else role, "content": content})
    return tool_calls.for_template(checked)


def _check_parts(content: Any, where: str) -> None:
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise MessageError(f"{where}: the content is neither text nor a list of parts")
    for i, part in enumerate(content):
        if isinstance(part, str):
            continue
        if not isinstance(part, Mapping) or not any(key in part for key in PARTS):
            raise MessageError(f"{where}.content[{i}]: is not a part; use {', '.join(PARTS)}")
        if part.get("type") == "text" and not isinstance(part.get("text"), str):
            raise MessageError(f'{where}.content[{i}]: has no text; give {{"type": "text", "text": "..."}}')


class ChatTemplate:
    """A compiled chat template, and the one for requests with tools, if the file has two."""

    def __init__(self, source: str, *, tool_use: str | None = None, bos_token: str = "", eos_token: str = "") -> None:
        """Compile a template; `tool_use` is rendered instead of it where there are tools.

        Raises:
            MessageError: it cannot be compiled.
            MissingDependencyError: jinja2 is not installed.

        """
        environment = jinja_environment()
        import jinja2

        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source)
            self._tool_use = self._template if tool_use is None else environment.from_string(tool_use)
        except jinja2.TemplateError as error:
            raise MessageError(f"chat template: cannot be compiled ({_short(error)}); use a raw prompt") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
        **options: Any,
    ) -> str:
        """Render messages as the text that the model was trained on.

        Args:
            messages: as `check_messages` returns them, media reduced to `{"type": "image"}` or `{"type": "video"}`.
            tools: as `tool_calls.check_tools` returns them.
            enable_thinking: False makes the template write an empty think block; None leaves it to the template.
            add_generation_prompt: end with the beginning of the assistant's message.
            options: further variables of the template.

        Raises:
            MessageError: the template refuses the messages; its reason is given.

        """
        import jinja2

        if enable_thinking is not None:
            options["enable_thinking"] = enable_thinking
        try:
            return (self._tool_use if tools else self._template).render(
                messages=messages,
                tools=tools or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._tokens,
                **options,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            raise MessageError(f"chat template: refuses the messages ({_short(error)})") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own escapes HTML.
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return _ESCAPED_MARK.sub(lambda match: match[1] + chr(int(match[2], 16)), text) if ensure_ascii else text


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
