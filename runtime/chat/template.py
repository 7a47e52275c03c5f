"""Render the file's chat template as transformers does, after checking the messages.

Source of the variables: `apply_chat_template` of transformers.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from qwen35_gguf.errors import MessageError, Qwen35Error
from qwen35_gguf.jinja_environment import counted_filter, jinja_environment
from qwen35_gguf.runtime.chat import openai_types
from qwen35_gguf.runtime.chat.template_variables import variables_of
from qwen35_gguf.runtime.chat.tool_calls.checks import for_template
from qwen35_gguf.runtime.options import GenerateOptions, LoadOptions
from qwen35_gguf.runtime.options.checks import TEMPLATE_OWN
from qwen35_gguf.template_budget import budget

ROLES = ("system", "developer", "user", "assistant", "tool")
# Of `control_tokens`, whose marks must survive; not after another backslash, and not the first half of a pair.
_ESCAPED_MARK = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d80[0-2])(?!\\ud[c-f])")
LONGEST_FORM = 1000  # characters of the form of a date
PARTS = ("text", "image", "image_url", "video", "video_url")


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """Check the messages of a request; the template checks the rest.

    The role "developer" becomes "system", and an assistant's missing content "".

    Raises:
        MessageError: not a list, an unknown role, or content that is neither text nor parts.
        ToolError: a malformed call, or the result of an unknown call.

    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise MessageError('messages: is not a list of at least one message; give [{"role": "user", "content": "..."}]')
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
    return for_template(checked)


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


NEAREST_EFFORT = {"minimal": "low", "max": "xhigh"}  # for templates that know fewer


def template_choice(loading: LoadOptions, options: GenerateOptions) -> dict[str, Any]:
    """Return the arguments of `ChatTemplate.render` that callers choose; a request comes before its model."""
    variables = {**(loading.template_options or {}), **(options.template_options or {})}
    by_default = variables.pop("enable_thinking", None)
    return {
        "enable_thinking": by_default if options.thinking is None else options.thinking,
        "reasoning_effort": options.reasoning_effort,
        "options": variables,
    }


class ChatTemplate:
    """A compiled chat template, and the one for requests with tools, if the file has two.

    Attributes:
        options: the names that it reads beside the messages and what comes with them, such as `enable_thinking`.

    """

    def __init__(self, source: str, *, tool_use: str | None = None, bos_token: str = "", eos_token: str = "") -> None:
        """Compile a template; `tool_use` is rendered instead of it where there are tools.

        Raises:
            MessageError: it cannot be compiled.
            MissingDependencyError: jinja2 is not installed.

        """
        environment = jinja_environment()
        import jinja2

        environment.filters["tojson"] = counted_filter("tojson", _tojson)
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source)
            self._tool_use = self._template if tool_use is None else environment.from_string(tool_use)
            read = variables_of(environment.parse(source)) | variables_of(environment.parse(tool_use or ""))
            self.options = frozenset(read - {*TEMPLATE_OWN, *environment.globals})
        except (jinja2.TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            # The others are Python's, which compiles what jinja2 writes: of blocks in blocks, or of numbers.
            raise MessageError(f"chat template: cannot be compiled ({_short(error)}); use a raw prompt") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        reasoning_effort: str | None = None,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """Render messages as the text that the model was trained on.

        Args:
            messages: as `check_messages` returns them, media reduced to `{"type": "image"}` or `{"type": "video"}`.
            tools: as `check_tools` returns them.
            enable_thinking: False makes the template write an empty think block; None leaves it to the template.
            reasoning_effort: for a template that reads it; others do not get it.
            add_generation_prompt: end with the beginning of the assistant's message.
            options: further variables of the template.

        Raises:
            MessageError: the template does not read one of the options, or refuses the messages; its reason is given.

        """
        import jinja2

        self.check_options(options)
        given = {"enable_thinking": enable_thinking, "reasoning_effort": reasoning_effort} | dict(options)
        variables = {name: value for name, value in given.items() if value is not None and name in self.options}
        template = self._tool_use if tools else self._template
        always: dict[str, Any] = {"messages": messages, "tools": tools or None, "documents": None, **self._tokens}
        always["add_generation_prompt"] = add_generation_prompt
        nearest = NEAREST_EFFORT.get(variables.get("reasoning_effort", ""))
        try:
            if nearest is not None and "reasoning_effort" not in options:
                with contextlib.suppress(jinja2.TemplateError):
                    return _run(template, always | variables)
                variables["reasoning_effort"] = nearest
            return _run(template, always | variables)
        except Qwen35Error:
            raise
        except Exception as error:  # of a program that is not ours
            raise MessageError(f"chat template: refuses the messages ({_short(error)})") from None

    def check_options(self, options: Iterable[str]) -> None:
        """Refuse names that the template does not read.

        Raises:
            MessageError: with those that it reads.

        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            known = ", ".join(sorted(self.options)) or "none"
            raise MessageError(
                f"template_options: the file's chat template does not read {unknown[0]}; it reads {known}"
            )


def _run(template: Any, variables: Mapping[str, Any]) -> str:
    with budget(variables["messages"], variables["tools"]):
        text: str = template.render(variables)
    return text


def _short(error: BaseException) -> str:
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
    return datetime.now().strftime(str(form)[:LONGEST_FORM])
