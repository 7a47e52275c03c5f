"""The chat templates of a checkpoint -> the ``tokenizer.chat_template*`` keys of a GGUF file.

Source: transformers tokenization_utils_base.py (`_from_pretrained`, `get_chat_template`): files with the ending .jinja
count before tokenizer_config.json. chat_template.json is of an older image processor; a tokenizer does not read it.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gguf import GGUFValueType, Keys

from qwen35_gguf.convert.tokenizer.files import TokenizerFiles
from qwen35_gguf.errors import MissingDependencyError
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.jinja_environment import jinja_environment
from qwen35_gguf.json_file import ANY, TEXT, JsonObject, list_of, map_of, read_json, read_text

STRING = GGUFValueType.STRING
DEFAULT = "default"


class Found(NamedTuple):
    """The templates of one place, by name."""

    where: str
    templates: dict[str, str]


def chat_templates(files: TokenizerFiles, notes: list[str]) -> Iterator[KeyValue]:
    """Yield the default chat template and the named ones of the place that counts.

    Args:
        files: of the checkpoint.
        notes: gets what the user should know, one line each.

    Raises:
        CheckpointError: a file cannot be read, or an entry is malformed.

    """
    found = [place for place in _places(files) if place.templates]
    filled = [Found(where, _filled(where, templates, notes)) for where, templates in found]
    filled = [place for place in filled if place.templates]
    if not filled:
        return
    first, *others = filled
    for other in others:
        if other.templates.get(DEFAULT) != first.templates.get(DEFAULT) and DEFAULT in first.templates:
            notes.append(f"the chat templates of {first.where} and {other.where} differ; {first.where} counts")
    templates = dict(first.templates)
    if DEFAULT not in templates:
        default = next((place for place in others if DEFAULT in place.templates), None)
        if default is not None:
            templates[DEFAULT] = default.templates[DEFAULT]
            notes.append(f"{first.where} has no default chat template; that of {default.where} is written")
        else:
            notes.append(f"{first.where} has no chat template called default; chats need one: name one of them so")
    for name, template in templates.items():
        notes += _syntax_notes(name, template)
    yield from _entries(templates, notes)


def _places(files: TokenizerFiles) -> Iterator[Found]:
    """Yield the places that may have templates, the one that counts first."""
    jinja = files.directory / "chat_template.jinja"
    folder = files.directory / "additional_chat_templates"
    found = {DEFAULT: read_text(jinja)} if jinja.is_file() else {}
    others = [file for file in sorted(folder.glob("*.jinja")) if file.is_file() or not file.exists()]  # no pipes
    found |= {file.name.removesuffix(".jinja"): read_text(file) for file in others}
    yield Found(jinja.name if jinja.is_file() else folder.name, found)
    yield Found("tokenizer_config.json", _of_settings(files.settings))
    legacy = read_json(files.directory / "chat_template.json", optional=True)
    yield Found("chat_template.json", _of_settings(legacy))


def _of_settings(settings: JsonObject) -> dict[str, str]:
    """Read one template, a list of named ones, or an object of them."""
    value = settings.get("chat_template", ANY)
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, dict):
        return settings.get("chat_template", map_of(TEXT), {})
    if isinstance(value, list):
        settings.get("chat_template", list_of(map_of(ANY)))
        return {item.need("name", TEXT): item.need("template", TEXT) for item in settings.sections("chat_template")}
    if value is not None:
        raise settings.mistake("chat_template", "a template, or a list of objects with name and template")
    return {}


def _filled(where: str, templates: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    for name, template in templates.items():
        if not template.strip():
            notes.append(f"{where}: the chat template {name!r} is empty; it is left out")
    return {name: template for name, template in templates.items() if template.strip()}


def _syntax_notes(name: str, template: str) -> Iterator[str]:
    """Yield a note if a template cannot be compiled; nothing where jinja2 is not installed."""
    try:
        environment = jinja_environment()
    except MissingDependencyError:
        return
    import jinja2

    try:
        environment.parse(template)
    except jinja2.TemplateSyntaxError as error:
        yield f"the chat template {name!r} cannot be compiled (line {error.lineno}: {error.message}); chats will fail"
    except (ValueError, RecursionError) as error:  # of numbers, and of parentheses in parentheses
        yield f"the chat template {name!r} cannot be compiled ({error}); chats will fail"


def _entries(templates: Mapping[str, str], notes: list[str]) -> Iterator[KeyValue]:
    """Yield each template under its own key, the names of the named ones before them, and the default one last."""
    allowed = string.ascii_letters + string.digits
    named: dict[str, str] = {}
    for name, template in templates.items():
        key = "".join(c if c in allowed else "_" for c in name)
        if key in named or (key == DEFAULT and name != DEFAULT) or not key:
            notes.append(f"the chat template {name!r} is left out: its key is that of another one")
            continue
        named[key] = template
    default = named.pop(DEFAULT, None)
    if named:
        yield KeyValue.of(Keys.Tokenizer.CHAT_TEMPLATES, list(named), GGUFValueType.ARRAY, STRING)
        for key, template in named.items():
            yield KeyValue.of(Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=key), template, STRING)
    if default is not None:
        yield KeyValue.of(Keys.Tokenizer.CHAT_TEMPLATE, default, STRING)
