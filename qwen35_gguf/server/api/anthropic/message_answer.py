"""Give an answer the form of the Messages API: as a whole, and as its events."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

from qwen35_gguf.runtime.chat.openai_types import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    Timings,
    Usage,
)
from qwen35_gguf.server.api.fields import with_miss
from qwen35_gguf.server.api.tools import complete_arguments

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "loop": "max_tokens"}
NOT_ENDED: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None}


def new_id() -> str:
    """Make the id of a message."""
    return f"msg_{uuid.uuid4().hex[:24]}"


def message_object(whole: ChatCompletion, name: str, limit: int | None, *, show_thinking: bool) -> dict[str, Any]:
    """Return a whole answer.

    Args:
        whole: the answer.
        name: of the model.
        limit: the most tokens that were asked for.
        show_thinking: give the text of the thinking.

    """
    choice = whole.choices[0]
    message = choice.message
    content: list[dict[str, Any]] = []
    if message.reasoning_content:
        text = message.reasoning_content
        content.append(_thinking_block(text if show_thinking else "", signature(text)))
    if message.content:
        content.append(_text_block(message.content))
    for call in message.tool_calls or ():
        content.append(_tool_block(call.id, call.function.name, complete_arguments(call.function.arguments)[0]))
    ending = _ending(choice, whole.timings, limit)
    return _message(new_id(), name, content, usage_object(whole.usage, whole.timings), ending)


def _message(
    identity: str, name: str, content: list[dict[str, Any]], usage: dict[str, Any], ending: dict[str, str | None]
) -> dict[str, Any]:
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": name,
        "content": content,
        **ending,
        "usage": usage,
    }


def _text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": None}


def _thinking_block(text: str, signed: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": signed}


def _tool_block(identity: str | None, name: str | None, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": identity, "name": name, "input": arguments}


def signature(text: str) -> str:
    """Return what stands for the original's signature of a thinking; requests may send anything in its place."""
    return hashlib.sha256(text.encode()).hexdigest()


def _ending(choice: Choice | ChunkChoice, timings: Timings | None, limit: int | None) -> dict[str, str | None]:
    """Tell why an answer ended; a full context and a stop text have reasons of their own."""
    reason, sequence = STOP_REASONS[choice.finish_reason or "stop"], None
    if choice.finish_reason == "length" and timings is not None and limit is not None and timings.tokens < limit:
        reason = "model_context_window_exceeded"
    elif choice.finish_reason == "stop" and choice.stop_text is not None:
        reason, sequence = "stop_sequence", choice.stop_text
    return {"stop_reason": reason, "stop_sequence": sequence}


def usage_object(usage: Usage, timings: Timings | None) -> dict[str, Any]:
    """Count tokens as the original does: the prompt's are those that were evaluated, and those that were reused."""
    reused = usage.prompt_tokens_details["cached_tokens"]
    made = {
        "input_tokens": usage.prompt_tokens - reused,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": reused,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.completion_tokens_details["reasoning_tokens"]},
    }
    return with_miss(made, timings)


class MessageEvents:
    """Turns chunks of an answer into events; text, thinking and each call are a block with a start and a stop."""

    def __init__(self, name: str, limit: int | None, *, show_thinking: bool) -> None:
        """Start an answer of a model; the arguments are those of `message_object`."""
        self._name, self._limit, self._show_thinking = name, limit, show_thinking
        self._index = -1
        self._open = ""  # the kind of the block that is open; of a call with its number
        self._thought = ""

    def start(self, prompt_tokens: int) -> Iterator[dict[str, Any]]:
        """Give the first events; the last but one has the exact counts."""
        usage = {"input_tokens": prompt_tokens, "output_tokens": 0}
        usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        yield {"type": "message_start", "message": _message(new_id(), self._name, [], usage, NOT_ENDED)}
        yield {"type": "ping"}

    def chunk(self, chunk: ChatCompletionChunk) -> Iterator[dict[str, Any]]:
        """Give the events of a chunk."""
        for choice in chunk.choices:
            yield from self._delta(choice.delta)
            if choice.finish_reason is not None:
                yield from self._close()
                yield from self._end(choice, chunk)

    def _delta(self, delta: Delta) -> Iterator[dict[str, Any]]:
        if delta.reasoning_content:
            yield from self._begin("thinking", _thinking_block("", ""))
            self._thought += delta.reasoning_content
            if self._show_thinking:
                yield self._piece("thinking_delta", thinking=delta.reasoning_content)
        if delta.content:
            yield from self._begin("text", _text_block(""))
            yield self._piece("text_delta", text=delta.content)
        for call in delta.tool_calls or ():
            yield from self._begin(f"tool_use {call.index}", _tool_block(call.id, call.function.name, {}))
            if call.function.arguments:
                yield self._piece("input_json_delta", partial_json=call.function.arguments)

    def _begin(self, kind: str, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if kind == self._open:
            return
        yield from self._close()
        self._open, self._index = kind, self._index + 1
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open == "thinking":
            yield self._piece("signature_delta", signature=signature(self._thought))
        if self._open:
            yield {"type": "content_block_stop", "index": self._index}
        self._open = ""

    def _piece(self, kind: str, **fields: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": {"type": kind, **fields}}

    def _end(self, choice: ChunkChoice, chunk: ChatCompletionChunk) -> Iterator[dict[str, Any]]:
        ending = _ending(choice, chunk.timings, self._limit)
        usage = {"output_tokens": 0} if chunk.usage is None else usage_object(chunk.usage, chunk.timings)
        yield {"type": "message_delta", "delta": ending, "usage": usage}
        yield {"type": "message_stop"}
