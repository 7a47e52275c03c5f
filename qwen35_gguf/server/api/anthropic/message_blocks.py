"""Turn Anthropic's messages, whose content is blocks, into OpenAI-style messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from qwen35_gguf.server.api.body_fields import FLAG, OBJECT, TEXT, objects, optional, required, wrong
from qwen35_gguf.server.api_error import bad_request

Block = Mapping[str, Any]
Part = dict[str, Any]

ROLES = ("user", "assistant", "system")
BETWEEN_TEXTS = "\n\n"


def library_messages(system: Any, messages: list[Any]) -> list[dict[str, Any]]:
    """Return the messages of a request as the library takes them.

    Adjacent messages of one role are one turn, as in the original. A system message behind the first turn becomes one
    of the user, since the family's template has system messages only at the beginning.

    Args:
        system: the field of that name: a text, or blocks.
        messages: the field of that name.

    Raises:
        ApiError: a message or a block is malformed or not supported.

    """
    found: list[dict[str, Any]] = []
    if system is not None:
        text = _joined(_text_parts(_blocks(system, "system"), "system"))
        if text:
            found.append({"role": "system", "content": text})
    turns: list[tuple[str, list[Block]]] = []
    for number, message in enumerate(objects(messages, "messages")):
        where = f"messages[{number}]"
        role = required(message, "role", TEXT, f"{where}.")
        if role not in ROLES:
            raise wrong(f"{where}.role", f"{role[:40]!r} is not {', '.join(ROLES)}")
        blocks = _blocks(message.get("content"), f"{where}.content")
        role = "user" if role == "system" else role
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, [*blocks]))
    if turns and turns[-1][0] == "assistant":
        raise bad_request("messages: the last one is of the assistant; end with one of the user", "messages")
    for role, blocks in turns:
        found += _user(blocks) if role == "user" else [_assistant(blocks)]
    return found


def _blocks(content: Any, where: str) -> list[Block]:
    """Return content as blocks, each with its path for messages."""
    if content is None:
        raise wrong(where, "is missing; give a text or a list of blocks")
    if isinstance(content, str):
        return [{"type": "text", "text": content, "where": where}] if content else []
    if not isinstance(content, list):
        raise wrong(where, "is neither a text nor a list of blocks")
    return [{**block, "where": f"{where}[{number}]"} for number, block in enumerate(objects(content, where))]


def _user(blocks: list[Block]) -> list[dict[str, Any]]:
    """Return the messages of a user's turn: results of tools, and what the user writes."""
    found: list[dict[str, Any]] = []
    parts: list[Part] = []
    for block in blocks:
        if block.get("type") == "tool_result":
            found += _with_parts(parts)
            parts = []
            found.append(_result(block))
        else:
            parts += _part(block)
    return found + _with_parts(parts)


def _with_parts(parts: list[Part]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": _content(parts)}] if parts else []


def _content(parts: list[Part]) -> str | list[Part]:
    """Return parts as content: one text, if there is nothing but text; else texts and images in their order."""
    if all(part["type"] == "text" for part in parts):
        return _joined(parts)
    found: list[Part] = []
    for part in parts:
        if found and part["type"] == found[-1]["type"] == "text":
            found[-1] = {"type": "text", "text": found[-1]["text"] + BETWEEN_TEXTS + part["text"]}
        else:
            found.append(part)
    return found


def _joined(parts: list[Part]) -> str:
    return BETWEEN_TEXTS.join(part["text"] for part in parts)


def _result(block: Block) -> dict[str, Any]:
    where = f"{block['where']}."
    blocks = _blocks(block.get("content") or [], f"{where}content")
    parts = [part for each in blocks for part in _part(each)]
    if optional(block, "is_error", FLAG, where):
        parts.insert(0, {"type": "text", "text": "The tool failed."})
    return {"role": "tool", "tool_call_id": required(block, "tool_use_id", TEXT, where), "content": _content(parts)}


def _assistant(blocks: list[Block]) -> dict[str, Any]:
    text, reasoning = "", ""
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind, where = block.get("type"), f"{block['where']}."
        if kind == "text":
            text += required(block, "text", TEXT, where)
        elif kind == "thinking":
            reasoning += required(block, "thinking", TEXT, where)
        elif kind == "tool_use":
            given = json.dumps(required(block, "input", OBJECT, where), ensure_ascii=False)
            function = {"name": required(block, "name", TEXT, where), "arguments": given}
            calls.append({"id": required(block, "id", TEXT, where), "type": "function", "function": function})
        elif kind != "redacted_thinking":
            raise _unsupported(block)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    return message | ({"tool_calls": calls} if calls else {})


# ---- blocks of the user ------------------------------------------------------------------------------------------


def _part(block: Block) -> list[Part]:
    kind = block.get("type")
    reader = _PARTS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise _unsupported(block)
    return reader(block)


def _text(block: Block) -> list[Part]:
    text = required(block, "text", TEXT, f"{block['where']}.")
    return [{"type": "text", "text": text}] if text else []


def _image(block: Block) -> list[Part]:
    where = f"{block['where']}.source."
    source = required(block, "source", OBJECT, f"{block['where']}.")
    kind = source.get("type")
    if kind == "base64":
        url = f"data:{required(source, 'media_type', TEXT, where)};base64,{required(source, 'data', TEXT, where)}"
    elif kind == "url":
        url = required(source, "url", TEXT, where)
    else:
        raise wrong(f"{where}type", f"{str(kind)[:40]!r} is not supported; use base64 or url")
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: Block) -> list[Part]:
    where = f"{block['where']}.source"
    source = required(block, "source", OBJECT, f"{block['where']}.")
    title = [{"type": "text", "text": title}] if (title := optional(block, "title", TEXT)) else []
    if source.get("type") == "text":
        return [*title, {"type": "text", "text": required(source, "data", TEXT, f"{where}.")}]
    if source.get("type") == "content":
        return title + [part for each in _blocks(source.get("content"), f"{where}.content") for part in _part(each)]
    raise wrong(f"{where}.type", "only text and content are supported; extract the text of a PDF first")


def _search_result(block: Block) -> list[Part]:
    where = block["where"]
    heads = [required(block, name, TEXT, f"{where}.") for name in ("title", "source")]
    parts = _text_parts(_blocks(block.get("content"), f"{where}.content"), f"{where}.content")
    return [{"type": "text", "text": "\n".join([*heads, *(part["text"] for part in parts)])}]


_PARTS: dict[str, Callable[[Block], list[Part]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
}


def _text_parts(blocks: list[Block], where: str) -> list[Part]:
    for block in blocks:
        if block.get("type") != "text":
            raise wrong(where, "has something else than text")
    return [part for block in blocks for part in _text(block)]


def _unsupported(block: Block) -> Exception:
    return wrong(f"{block['where']}.type", f"{str(block.get('type'))[:40]!r} is not supported here")
