"""Give an answer the form of the Responses API: a response with items, and the events in which it comes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen35_gguf.runtime.chat.openai_types import CallDelta, ChatCompletion, ChatCompletionChunk, Delta, Timings, Usage
from qwen35_gguf.server.api.fields import with_miss
from qwen35_gguf.server.api.tools import complete_arguments

Item = dict[str, Any]
Event = dict[str, Any]

_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


@dataclass(frozen=True)
class ResponseHead:
    """What a response has before its answer begins.

    Attributes:
        model: its name.
        shown: fields of the request that are repeated.
        id: of the response.
        created: seconds since 1970.

    """

    model: str
    shown: Mapping[str, Any]
    id: str = field(default_factory=lambda: _new_id("resp"))
    created: float = field(default_factory=lambda: float(int(time.time())))

    def response(self, status: str, output: list[Item], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the response in a state, with the items so far."""
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": reason,
            "model": self.model,
            "output": output,
            "usage": usage,
            **self.shown,
        }


def usage_object(usage: Usage, timings: Timings | None) -> dict[str, Any]:
    """Count tokens as the original does."""
    made = {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.prompt_tokens_details["cached_tokens"],
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.completion_tokens_details["reasoning_tokens"]},
        "total_tokens": usage.total_tokens,
    }
    return with_miss(made, timings)


def status_of(finish_reason: str) -> str:
    """Tell whether an answer is complete."""
    return "incomplete" if finish_reason in ("length", "loop") else "completed"


def whole_response(head: ResponseHead, whole: ChatCompletion) -> dict[str, Any]:
    """Return a whole answer."""
    choice = whole.choices[0]
    message, status = choice.message, status_of(choice.finish_reason)
    output = []
    if message.reasoning_content:
        output.append(_item("reasoning", "completed", message.reasoning_content))
    if message.content:
        output.append(_item("message", status, message.content))
    output += [_call_item(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    return head.response(status, output, usage_object(whole.usage, whole.timings))


def _item(kind: str, status: str, text: str = "") -> Item:
    own: Item = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
    content = [_part(kind, text)] if text else []
    return {"type": kind, "id": _new_id(_PREFIXES[kind]), "status": status, **own, "content": content}


def _call_item(identity: str | None, name: str | None, arguments: str, status: str = "") -> Item:
    """Return the item of a call; without a status it follows from the arguments, which may be truncated."""
    kind = "function_call"
    status = status or ("completed" if complete_arguments(arguments)[1] else "incomplete")
    item = {"type": kind, "id": _new_id(_PREFIXES[kind]), "status": status}
    return item | {"call_id": identity, "name": name, "arguments": arguments}


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _log_probabilities(kind: str) -> dict[str, list[Any]]:
    """Return a field that only text has in the original, always empty here."""
    return {"logprobs": []} if kind == "message" else {}


class ResponseEvents:
    """Turns chunks of an answer into events.

    Attributes:
        output: the items that are complete.

    """

    def __init__(self, head: ResponseHead) -> None:
        """Start a response."""
        self._head = head
        self.output: list[Item] = []
        self._item: Item | None = None
        self._text = ""
        self._number = 0

    def start(self) -> Iterator[Event]:
        """Give the first events."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._head.response("in_progress", []))

    def chunk(self, chunk: ChatCompletionChunk) -> Iterator[Event]:
        """Give the events of a chunk; after the last one the response is complete."""
        for choice in chunk.choices:
            yield from self._delta(choice.delta)
            if choice.finish_reason is not None:
                status = status_of(choice.finish_reason)
                yield from self._close(status)
                usage = None if chunk.usage is None else usage_object(chunk.usage, chunk.timings)
                response = self._head.response(status, self.output, usage)
                yield self._event(f"response.{status}", response=response)

    def failed(self, message: str) -> Iterator[Event]:
        """Give the last event of an answer that fails."""
        response = self._head.response("failed", self.output) | {"error": {"code": "server_error", "message": message}}
        yield self._event("response.failed", response=response)

    def _delta(self, delta: Delta) -> Iterator[Event]:
        if delta.reasoning_content:
            yield from self._text_piece("reasoning", "response.reasoning_text.delta", delta.reasoning_content)
        if delta.content:
            yield from self._text_piece("message", "response.output_text.delta", delta.content)
        for call in delta.tool_calls or ():
            yield from self._call_piece(call)

    def _text_piece(self, kind: str, name: str, text: str) -> Iterator[Event]:
        if self._item is None or self._item["type"] != kind:
            yield from self._begin(_item(kind, "in_progress"))
            yield self._of_item("response.content_part.added", content_index=0, part=_part(kind, ""))
        self._text += text
        yield self._of_item(name, content_index=0, delta=text, **_log_probabilities(kind))

    def _call_piece(self, call: CallDelta) -> Iterator[Event]:
        if call.id is not None:
            yield from self._begin(_call_item(call.id, call.function.name, "", "in_progress"))
        if not call.function.arguments:
            return
        self._text += call.function.arguments
        yield self._of_item("response.function_call_arguments.delta", delta=call.function.arguments)

    def _begin(self, item: Item) -> Iterator[Event]:
        yield from self._close("completed")
        self._item, self._text = item, ""
        yield self._event("response.output_item.added", output_index=len(self.output), item=item)

    def _close(self, status: str) -> Iterator[Event]:
        """Complete the open item."""
        if self._item is None:
            return
        kind, text = self._item["type"], self._text
        if kind == "function_call":
            complete = complete_arguments(text)[1]
            done = self._item | {"arguments": text, "status": "completed" if complete else "incomplete"}
            yield self._of_item("response.function_call_arguments.done", arguments=text)
        else:
            part = _part(kind, text)
            done = self._item | {"content": [part], "status": status if kind == "message" else "completed"}
            name = "response.output_text.done" if kind == "message" else "response.reasoning_text.done"
            yield self._of_item(name, content_index=0, text=text, **_log_probabilities(kind))
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        yield self._event("response.output_item.done", output_index=len(self.output), item=done)
        self.output.append(done)
        self._item = None

    def _of_item(self, name: str, **fields: Any) -> Event:
        assert self._item is not None
        return self._event(name, item_id=self._item["id"], output_index=len(self.output), **fields)

    def _event(self, name: str, **fields: Any) -> Event:
        self._number += 1
        return {"type": name, "sequence_number": self._number - 1, **fields}
