"""The chat templates of a checkpoint -> the ``tokenizer.chat_template*`` keys of a GGUF file."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, Keys

from qwen35_gguf.convert.json_file import read_json, read_text
from qwen35_gguf.gguf_file.keyvalue import KeyValue

STRING = GGUFValueType.STRING


def chat_templates(directory: Path, settings: Mapping[str, Any]) -> Iterator[KeyValue]:
    """Yield the chat template and the named ones.

    Precedence: tokenizer_config.json, then chat_template.jinja (with additional_chat_templates/), then
    chat_template.json. That is the reference converter's order; newer checkpoints have only the .jinja file.
    """
    found: object = settings.get("chat_template")
    jinja = directory / "chat_template.jinja"
    if found is None and jinja.is_file():
        found = read_text(jinja)
        extra = sorted((directory / "additional_chat_templates").glob("*.jinja"))
        if extra:
            found = [{"name": "default", "template": found}]
            found += [{"name": file.stem, "template": read_text(file)} for file in extra]
    elif found is None:
        found = read_json(directory / "chat_template.json", optional=True).get("chat_template")

    if isinstance(found, str):
        yield KeyValue.of(Keys.Tokenizer.CHAT_TEMPLATE, found, STRING)
    elif isinstance(found, list):
        yield from _named_templates(found)


def _named_templates(templates: Sequence[Any]) -> Iterator[KeyValue]:
    """Yield a list of named templates: each under its own key, their names, and the default one."""
    allowed = string.ascii_letters + string.digits
    named: dict[str, str] = {}
    for item in templates:
        if not isinstance(item, dict) or not item.get("template"):
            continue
        name = "".join(c if c in allowed else "_" for c in str(item.get("name", "")))
        if name:
            named.setdefault(name, str(item["template"]))
    default = named.pop("default", None)
    if named:
        yield KeyValue.of(Keys.Tokenizer.CHAT_TEMPLATES, list(named), GGUFValueType.ARRAY, STRING)
        for name, template in named.items():
            yield KeyValue.of(Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name), template, STRING)
    if default is not None:
        yield KeyValue.of(Keys.Tokenizer.CHAT_TEMPLATE, default, STRING)
