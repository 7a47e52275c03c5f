"""Refuse requests that are larger than the operator allows, before anything is done for them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qwen35_gguf.runtime.options import GenerateOptions
from qwen35_gguf.server.api_error import ApiError, bad_request
from qwen35_gguf.server.settings import RequestLimits

ENCODED = ("url", "data", "image", "image_url", "video", "video_url")  # keys of what is not read as a text
MEDIA = ("image", "image_url", "video", "video_url")  # types, and keys that make a part one without a type


def check_messages(messages: Any, limits: RequestLimits) -> None:
    """Check how many messages and images a conversation has; the library checks the rest.

    Raises:
        ApiError: there are none, or too many.

    """
    if messages is None:
        raise bad_request('messages: are missing; give [{"role": "user", "content": "..."}]', "messages")
    if not isinstance(messages, list):
        return
    if len(messages) > limits.messages:
        raise _too_large("messages", f"{len(messages):,} messages are more than {limits.messages:,}")
    several = sum(len(_parts(message)) for message in messages)
    if several > limits.parts:
        raise _too_large("messages", f"{several:,} parts of messages are more than {limits.parts:,}")
    media = sum(1 for message in messages for part in _parts(message) if _is_media(part))
    if media > limits.media:
        raise _too_large("messages", f"{media:,} images and videos are more than {limits.media:,}")


def check_items(items: list[Any], limits: RequestLimits) -> None:
    """Check how many items a conversation of the Responses API has, before they become messages.

    Raises:
        ApiError: there are too many.

    """
    if len(items) > limits.parts:
        raise _too_large("input", f"{len(items):,} items are more than {limits.parts:,}")


def _parts(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, list) else []


def _is_media(part: Any) -> bool:
    return isinstance(part, Mapping) and (part.get("type") in MEDIA or any(key in part for key in MEDIA))


def check_texts(body: Any, limits: RequestLimits) -> None:
    """Check how much text a body has, names included: what is not an image or a video.

    Raises:
        ApiError: it is too much.

    """
    size = 0
    for one in _objects(body):
        plain = one.get("type") == "text"
        for key, value in one.items():
            for text in (key, *(value if isinstance(value, list) else (value,))):
                if isinstance(text, str) and (plain or key not in ENCODED):
                    size += len(text) if text.isascii() else len(text.encode())
        if size > limits.text_bytes:
            raise _too_large("body", f"its texts have more than {limits.text_bytes:,} bytes")


def check_options(options: GenerateOptions, limits: RequestLimits) -> None:
    """Check the sizes of schemas, grammars and regular expressions, and the number of answers.

    Raises:
        ApiError: one is too large.

    """
    if options.n > limits.choices:
        raise bad_request(f"n: {options.n} is more than {limits.choices}; ask for fewer answers", "n")
    if len(options.stop) > limits.stops:
        raise bad_request(f"stop: {len(options.stop):,} texts are more than {limits.stops}; give fewer", "stop")
    if len(options.logit_bias or ()) > limits.biases:
        raise _too_large("logit_bias", f"{len(options.logit_bias or ()):,} entries are more than {limits.biases:,}")
    form = options.response_format if isinstance(options.response_format, Mapping) else {}
    for name in ("tools", "tool_choice", "grammar"):
        check_size(name, getattr(options, name), limits)
    check_size("response_format", form, limits)


def check_size(name: str, value: Any, limits: RequestLimits) -> None:
    """Check the sizes of a schema, a grammar or tools, as a request has them.

    Raises:
        ApiError: one is too large.

    """
    if not value:
        return
    if sum(1 for _ in itertools.islice(_values(value), limits.schema_bytes)) == limits.schema_bytes:
        raise _too_large(name, f"more than {limits.schema_bytes:,} bytes")
    size = len(value.encode()) if isinstance(value, str) else len(json.dumps(value, default=str))
    rules = isinstance(value, str) or (isinstance(value, Mapping) and value.get("type") in ("gbnf", "lark", "grammar"))
    limit = limits.grammar_bytes if rules else limits.schema_bytes
    if size > limit:
        raise _too_large(name, f"{size:,} bytes are more than {limit:,}")
    if sum(1 for _ in _objects(value)) > limits.schema_parts:
        raise _too_large(name, f"schemas of more than {limits.schema_parts:,} objects take too long")
    for pattern in _patterns(value):
        if len(pattern.encode()) > limits.regex_bytes:
            raise _too_large(name, f"a regular expression is longer than {limits.regex_bytes:,} bytes")


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Find objects at any depth."""
    return (one for one in _values(value) if isinstance(one, Mapping))


def _values(value: Any) -> Iterator[Any]:
    """Find values at any depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, Sequence) and not isinstance(one, str | bytes):
            waiting += one


def _patterns(value: Any) -> Iterator[str]:
    """Find regular expressions, in schemas at any depth."""
    for one in _objects(value):
        for key, inner in one.items():
            if key in ("pattern", "regex") and isinstance(inner, str):
                yield inner
            elif key == "patternProperties" and isinstance(inner, Mapping):
                yield from inner


def _too_large(name: str, message: str) -> ApiError:
    return ApiError(413, f"{name}: {message}; send less", "request_too_large", name)
