"""Turn the items of the Responses API into OpenAI-style messages, and an answer into items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwen35_gguf.server.api.body_fields import LIST, TEXT, objects, optional, required, wrong

Item = Mapping[str, Any]
Message = dict[str, Any]

BETWEEN_TEXTS = "\n\n"
ROLES = ("user", "assistant", "system", "developer")


def library_messages(instructions: str | None, items: list[Any], where: str = "input") -> list[Message]:
    """Return items as the library takes them.

    Instructions and leading messages of the system or developer are one system message. Later ones become messages of
    the user, since the family's template has system messages only at the beginning. The reasoning, text and calls of
    an answer are one message.

    Args:
        instructions: go before everything else.
        items: those of earlier turns, too.
        where: the name of the items in errors.

    Raises:
        ApiError: an item is malformed or not supported.

    """
    leading = [instructions] if instructions else []
    found: list[Message] = []
    for number, item in enumerate(objects(items, where)):
        place = f"{where}[{number}]"
        if item.get("type") == "function_call" and item.get("status") == "incomplete":
            continue  # a truncated call: its arguments are not valid JSON, and it has no result
        message = _message(item, place)
        if message["role"] == "system":
            text = message["content"] if isinstance(message["content"], str) else None
            if text is None:
                raise wrong(f"{place}.content", "a system message has text only")
            if not found:
                leading.append(text)
                continue
            message["role"] = "user"
        if message["role"] == "assistant" and found and found[-1]["role"] == "assistant":
            _join(found[-1], message)
        else:
            found.append(message)
    return ([{"role": "system", "content": BETWEEN_TEXTS.join(leading)}] if leading else []) + found


def _join(earlier: Message, later: Message) -> None:
    earlier["content"] += later["content"]
    for name in ("reasoning_content", "tool_calls"):
        if name in later:
            earlier[name] = earlier[name] + later[name] if name in earlier else later[name]


def _message(item: Item, where: str) -> Message:
    kind = item.get("type", "message")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise wrong(f"{where}.type", f"{str(kind)[:40]!r} is not supported here; use {', '.join(_READERS)}")
    return reader(item, where)


def _written(item: Item, where: str) -> Message:
    role = required(item, "role", TEXT, f"{where}.")
    if role not in ROLES:
        raise wrong(f"{where}.role", f"{role[:40]!r} is not {', '.join(ROLES)}")
    content = _content(item.get("content"), f"{where}.content")
    if role == "assistant" and not isinstance(content, str):
        raise wrong(f"{where}.content", "a message of the assistant has text only")
    return {"role": "system" if role == "developer" else role, "content": content}


def _content(content: Any, where: str) -> str | list[dict[str, Any]]:
    """Return content as one text, or as texts and images in their order."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(where, "is neither a text nor a list of parts")
    parts = [_part(part, f"{where}[{number}]") for number, part in enumerate(objects(content, where))]
    if all(part["type"] == "text" for part in parts):
        return BETWEEN_TEXTS.join(part["text"] for part in parts)
    return parts


def _part(part: Item, where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": required(part, "text", TEXT, f"{where}.")}
    if kind == "refusal":
        return {"type": "text", "text": required(part, "refusal", TEXT, f"{where}.")}
    if kind in ("input_image", "input_video"):
        name = f"{kind.removeprefix('input_')}_url"
        return {"type": name, name: {"url": required(part, name, TEXT, f"{where}.")}}
    raise wrong(f"{where}.type", f"{str(kind)[:40]!r} is not supported; use input_text or input_image")


def _call(item: Item, where: str) -> Message:
    names = {name: required(item, name, TEXT, f"{where}.") for name in ("call_id", "name", "arguments")}
    function = {"name": names["name"], "arguments": names["arguments"]}
    call = {"id": names["call_id"], "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _result(item: Item, where: str) -> Message:
    content = _content(item.get("output"), f"{where}.output")
    return {"role": "tool", "tool_call_id": required(item, "call_id", TEXT, f"{where}."), "content": content}


def _reasoning(item: Item, where: str) -> Message:
    parts = optional(item, "content", LIST, f"{where}.") or optional(item, "summary", LIST, f"{where}.") or []
    texts = [required(part, "text", TEXT, f"{where}.content.") for part in objects(parts, f"{where}.content")]
    return {"role": "assistant", "content": ""} | ({"reasoning_content": "".join(texts)} if texts else {})


_READERS: dict[str, Callable[[Item, str], Message]] = {
    "message": _written,
    "function_call": _call,
    "function_call_output": _result,
    "reasoning": _reasoning,
}
