"""Texts of users: plain text, or JSON Lines with `text` or `messages` in each line; gzip compresses either."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_gguf.errors import MessageError, TextError, ToolError
from qwen35_gguf.runtime.chat.template import check_messages

LARGEST = 1 << 30  # bytes, expanded: a device has no end, and 10 MB of zeros expand to 10 GB
LINES = (".jsonl", ".ndjson")
ONE_EACH = "one JSON object in each line, with a text or messages"
# Files that are not text, or whose text is in fields that are not known: what they are, and what to do.
REFUSED = {
    ".json": f"is one JSON document; write it as JSON Lines (.jsonl), {ONE_EACH}",
    **dict.fromkeys((".csv", ".tsv"), f"is a table; write its column of texts as JSON Lines (.jsonl), {ONE_EACH}"),
    **dict.fromkeys(
        (".parquet", ".arrow", ".feather"), f"is a table in binary; write its texts as JSON Lines (.jsonl), {ONE_EACH}"
    ),
    **dict.fromkeys((".zst", ".xz", ".bz2", ".zip", ".tar", ".tgz", ".7z"), "is compressed; expand it, or use gzip"),
    **dict.fromkeys((".pdf", ".docx", ".odt", ".epub", ".html", ".htm"), "is a document; save it as plain text"),
    **dict.fromkeys((".gguf", ".safetensors", ".bin"), "holds weights; name a text"),
}


@dataclass(frozen=True)
class Chat:
    """A conversation that the model's template renders.

    Attributes:
        where: its file and line.
        messages: as `check_messages` returns them.
        tools: in OpenAI's form; None: none.

    """

    where: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


def read_passages(path: Path) -> list[str | Chat]:
    """Read a file of texts: one for a plain text, one for each line of JSON Lines.

    Raises:
        TextError: it cannot be read, is empty, or is of a kind that is not read; with the number of a malformed line.

    """
    kinds = [suffix.lower() for suffix in path.suffixes]
    compressed = kinds[-1:] == [".gz"]
    kind = (kinds[-2:-1] if compressed else kinds[-1:]) or [""]
    if kind[0] in REFUSED:
        raise TextError(f"{path}: {REFUSED[kind[0]]}")
    content = _decode(path, _bytes(path, compressed=compressed))
    found: list[str | Chat] = list(_lines(path, content)) if kind[0] in LINES else [content]
    if not any(isinstance(one, Chat) or one.strip() for one in found):
        raise TextError(f"{path}: is empty; name a file with text")
    return found


def read_text(path: Path) -> str:
    """Read a file of texts that needs no chat template.

    Raises:
        TextError: as of `read_passages`, or it has messages.

    """
    found = read_passages(path)
    if chat := next((one for one in found if isinstance(one, Chat)), None):
        raise TextError(f"{chat.where}: has messages, for which a chat template is needed; name a text")
    return join([one for one in found if isinstance(one, str)])


def join(passages: list[str]) -> str:
    """Join passages as the packaged ones are."""
    return passages[0] if len(passages) == 1 else "\n\n".join(one for one in passages if one)


def _bytes(path: Path, *, compressed: bool) -> bytes:
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TextError(f"{path}: cannot be expanded ({error}); compress it again with gzip") from None
    except OSError as error:
        raise TextError(f"{path}: {error.strerror or error}; name a text file") from None
    if len(content) > LARGEST:
        raise TextError(f"{path}: has more than {LARGEST >> 20:,} MiB of text; name a part of it")
    return content


def _decode(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise TextError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if "\0" in text:
        raise TextError(f"{path}: is not text: it has zero bytes; name a text file in UTF-8")
    return text


def _lines(path: Path, content: str) -> Iterator[str | Chat]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield _passage(f"{path}: line {number}", line)


def _passage(where: str, line: str) -> str | Chat:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{where}: is not JSON ({error}); write {ONE_EACH}") from None
    if not isinstance(record, Mapping) or ("text" in record) == ("messages" in record):
        keys = f" of {', '.join(map(repr, list(record)[:5])) or 'nothing'}" if isinstance(record, Mapping) else ""
        both = isinstance(record, Mapping) and "text" in record
        what = "has a text and messages" if both else f"is {_name(record)}{keys}"
        raise TextError(f"{where}: {what}; write an object with either a text or messages")
    if "text" in record:
        if not isinstance(record["text"], str):
            raise TextError(f"{where}: text is {_name(record['text'])}; must be a string")
        return str(record["text"])
    try:
        messages = check_messages(record["messages"])
    except (MessageError, ToolError) as error:
        raise TextError(f"{where}: {error}") from None
    tools = record.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise TextError(f"{where}: tools is {_name(tools)}; must be a list of objects")
    for message in messages:
        content = message["content"]
        if not isinstance(content, str) and any(not isinstance(p, str) and p.get("type") != "text" for p in content):
            raise TextError(f"{where}: a message has an image or a video, which is not evaluated here; leave it out")
    return Chat(where, messages, tools)


def _name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
