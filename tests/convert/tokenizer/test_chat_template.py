"""Which chat template counts, with tools and without: as transformers' AutoTokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from qwen35_gguf.convert.tokenizer.vocabulary import read_vocabulary
from qwen35_gguf.errors import CheckpointError

Json = dict[str, Any]
NAMED = [
    {"name": "default", "template": "D"},
    {"name": "tool_use", "template": "T"},
    {"name": "rag", "template": "R"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def settings(template: Any) -> Json:
    return {"tokenizer_config": lambda c: c.update(chat_template=template)}


# Changes of JSON files, and the .jinja files.
CASES: dict[str, tuple[Json, dict[str, str]]] = {
    "tokenizer_config.json alone": (settings("OLD"), {}),
    "the file alone": ({}, {"chat_template": "NEW"}),
    "the file beside tokenizer_config.json": (settings("OLD"), {"chat_template": "NEW"}),
    "the file beside a list": (settings(NAMED), {"chat_template": "NEW"}),
    "a list": (settings(NAMED), {}),
    "a list with a name twice": (settings([*NAMED, {"name": "default", "template": "LAST"}]), {}),
    "a list without tool_use": (settings([NAMED[2], NAMED[0]]), {}),
    "an object": (settings({"default": "D", "tool_use": "T"}), {}),
    "files by name": ({}, {"chat_template": "NEW", "additional_chat_templates/tool_use": "TOOLS"}),
    "files by name beside a list": (
        settings(NAMED),
        {"chat_template": "NEW", "additional_chat_templates/rag": "R2", "additional_chat_templates/x.y": "XY"},
    ),
    "chat_template.json beside tokenizer_config.json": (
        settings("OLD") | {"chat_template": lambda c: c.update(chat_template="JSON")},
        {},
    ),
    "chat_template.json beside the file": (
        {"chat_template": lambda c: c.update(chat_template="JSON")},
        {"chat_template": "NEW"},
    ),
    "null beside the file": (settings(None), {"chat_template": "NEW"}),
}


def made(trained: Callable[..., Path], changes: Json, jinja: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    directory = trained(**changes)
    for name, text in jinja.items():
        path = directory / f"{name}.jinja"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = read_vocabulary(directory, 8192)
    return {e.key: e.value for e in found.entries if "chat_template" in e.key}, list(found.notes)


@pytest.mark.parametrize("case", CASES)
def test_templates_are_those_of_transformers(trained: Callable[..., Path], tmp_path: Path, case: str) -> None:
    found, _ = made(trained, *CASES[case])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert found["tokenizer.chat_template"] == tokenizer.get_chat_template()
    with_tools = found.get("tokenizer.chat_template.tool_use", found["tokenizer.chat_template"])
    assert with_tools == tokenizer.get_chat_template(tools=TOOLS)
    named = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    names = [name.replace(".", "_") for name in named if name != "default"]
    assert sorted(found.get("tokenizer.chat_templates", [])) == sorted(names)
    for name, template in named.items():
        key = f"tokenizer.chat_template.{name.replace('.', '_')}"
        assert found[key if name != "default" else "tokenizer.chat_template"] == template


def test_chat_template_json_counts_last(trained: Callable[..., Path]) -> None:
    found, notes = made(trained, {"chat_template": lambda c: c.update(chat_template="JSON")}, {})
    assert (found, notes) == ({"tokenizer.chat_template": "JSON"}, [])


@pytest.mark.parametrize(
    ("changes", "jinja", "template", "words"),
    [
        (settings("OLD"), {"chat_template": "NEW"}, "NEW", "chat_template.jinja and tokenizer_config.json differ"),
        (settings("OLD"), {"chat_template": " \n"}, "OLD", "the chat template 'default' is empty"),
        (settings(""), {}, None, "the chat template 'default' is empty"),
        (settings("{% if %}"), {}, "{% if %}", "the chat template 'default' cannot be compiled (line 1"),
        (settings([NAMED[0], {"name": "x", "template": "{{"}]), {}, "D", "the chat template 'x' cannot be compiled"),
        (settings("OLD"), {"additional_chat_templates/x": "X"}, "OLD", "additional_chat_templates has no default"),
        (settings(NAMED[1:]), {}, None, "has no chat template called default"),
        (settings([*NAMED, {"name": "tool-use", "template": "T2"}]), {}, "D", "'tool-use' is left out"),
    ],
)
def test_what_may_be_wrong_is_noted(
    trained: Callable[..., Path], changes: Json, jinja: dict[str, str], template: str | None, words: str
) -> None:
    found, notes = made(trained, changes, jinja)
    assert found.get("tokenizer.chat_template") == template
    assert [note for note in notes if words in note]


def test_equal_templates_in_two_places_need_no_note(trained: Callable[..., Path]) -> None:
    assert made(trained, settings("SAME"), {"chat_template": "SAME"}) == ({"tokenizer.chat_template": "SAME"}, [])


def test_a_block_for_training_is_no_fault(trained: Callable[..., Path]) -> None:
    template = "{% generation %}{{ messages }}{% endgeneration %}{% for m in messages %}{% break %}{% endfor %}"
    assert made(trained, settings(template), {})[1] == []


@pytest.mark.parametrize("template", [5, [5], [{"name": "default"}], [{"name": 5, "template": "x"}], {"default": 5}])
def test_a_malformed_entry_is_one_line(trained: Callable[..., Path], template: Any) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: chat_template") as caught:
        made(trained, settings(template), {})
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes")
def test_pipes_and_folders_in_place_of_templates_are_not_read(trained: Callable[..., Path]) -> None:
    folder = trained()
    os.mkfifo(folder / "chat_template.jinja")
    others = folder / "additional_chat_templates"
    others.mkdir()
    os.mkfifo(others / "tool_use.jinja")
    (others / "folder.jinja").mkdir()
    (others / "rag.jinja").write_text("R")
    keys = [entry.key for entry in read_vocabulary(folder, 8192).entries]
    assert "tokenizer.chat_template.rag" in keys
    assert "tokenizer.chat_template.tool_use" not in keys


@pytest.mark.parametrize("data", ["R".encode("utf-16"), b"\x80\x81"])
def test_a_template_that_is_not_utf_8_is_one_line(trained: Callable[..., Path], data: bytes) -> None:
    folder = trained()
    (folder / "chat_template.jinja").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: is not UTF-8") as caught:
        read_vocabulary(folder, 8192)
    assert "\n" not in str(caught.value)
