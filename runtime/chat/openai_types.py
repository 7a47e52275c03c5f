"""What a chat returns: the objects of OpenAI's API, with the reasoning apart and timings."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

from qwen35_gguf.runtime.chat.structured.answer_types import AnswerType

T = TypeVar("T")
FinishReason = Literal["stop", "length", "tool_calls", "loop"]  # OpenAI's API does not have the last one


@dataclass(frozen=True)
class Function:
    """The function that is called: `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Call:
    """A tool call; `index` counts those of a message."""

    id: str
    function: Function
    index: int = 0
    type: Literal["function"] = "function"


@dataclass(frozen=True)
class FunctionDelta:
    """A piece of the arguments; the name comes with the first of a call."""

    arguments: str = ""
    name: str | None = None


@dataclass(frozen=True)
class CallDelta:
    """A piece of a streamed tool call; `index` tells which one, `id` and `type` come with its first."""

    index: int
    function: FunctionDelta
    id: str | None = None
    type: Literal["function"] | None = None


def join_calls(pieces: Iterable[CallDelta]) -> list[Call]:
    """Put the pieces of a message's calls together.

    The arguments of a truncated call are not valid JSON.
    """
    found: dict[int, list[CallDelta]] = {}
    for piece in pieces:
        found.setdefault(piece.index, []).append(piece)
    calls = []
    for index, of_call in found.items():
        arguments = "".join(piece.function.arguments for piece in of_call)
        calls.append(Call(of_call[0].id or "", Function(of_call[0].function.name or "", arguments), index))
    return calls


@dataclass(frozen=True)
class Message:
    """The answer of the model; the `messages` of the next request accept it as it is."""

    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    role: Literal["assistant"] = "assistant"

    def to_dict(self) -> dict[str, Any]:
        """Return it as a message of a request."""
        return {key: value for key, value in asdict(self).items() if value is not None or key == "content"}


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed message; `role` comes with the first of an answer."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None
    role: Literal["assistant"] | None = None


@dataclass(frozen=True)
class Timings:
    """What was evaluated and how long it took.

    Attributes:
        prompt_tokens: of the whole prompt; an image counts the cells that it takes.
        reused_tokens: of these, those that were not evaluated again.
        prompt_seconds: of evaluating the prompt.
        tokens: generated ones.
        seconds: from then to the last of them.
        drafted: tokens that were drafted.
        accepted: of these, the accepted ones.
        loop: what went round in circles and was therefore ended, with `stop_loops`; empty: nothing.
        miss: which change of the prompt cost what was known of it, in words; empty if none did.

    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0
    miss: str = ""
    loop: Literal["", "thinking", "answer"] = ""

    @property
    def prompt_per_second(self) -> float:
        """Evaluated tokens of the prompt, tokens/s."""
        return (self.prompt_tokens - self.reused_tokens) / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens, tokens/s."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def acceptance(self) -> float | None:
        """The fraction of drafted tokens that was accepted; None without any."""
        return self.accepted / self.drafted if self.drafted else None

    def __str__(self) -> str:
        new = self.prompt_tokens - self.reused_tokens
        reused = f" and {self.reused_tokens:,} reused" if self.reused_tokens else ""
        drafts = f"; drafts: {self.accepted} of {self.drafted} accepted" if self.drafted else ""
        loop = f"; ended: a loop in the {self.loop}" if self.loop else ""
        return (
            f"prompt: {new:,} tokens{reused}, {self.prompt_per_second:,.1f} tokens/s; "
            f"generation: {self.tokens:,} tokens, {self.tokens_per_second:,.1f} tokens/s{drafts}{loop}"
        )


@dataclass(frozen=True)
class Usage:
    """Counts of tokens in OpenAI's form."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


def usage(timings: Timings, reasoning_tokens: int = 0) -> Usage:
    """Count the tokens of a request."""
    return Usage(
        timings.prompt_tokens,
        timings.tokens,
        timings.prompt_tokens + timings.tokens,
        {"cached_tokens": timings.reused_tokens},
        {"reasoning_tokens": reasoning_tokens},
    )


@dataclass(frozen=True)
class TopLogprob:
    """A token that was probable: its text, the natural logarithm of its probability, and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


@dataclass(frozen=True)
class TokenLogprob(TopLogprob):
    """A token of the answer, with the most probable ones at its place."""

    top_logprobs: list[TopLogprob] = field(default_factory=list)


@dataclass(frozen=True)
class ChoiceLogprobs:
    """The tokens of the content, in order."""

    content: list[TokenLogprob]
    refusal: None = None


@dataclass(frozen=True)
class Choice:
    """An answer of a completion; `stop_text` is the one of the request's `stop` before which it ended."""

    message: Message
    finish_reason: FinishReason
    index: int = 0
    logprobs: ChoiceLogprobs | None = None
    stop_text: str | None = None


@dataclass(frozen=True)
class ChunkChoice:
    """A piece of one answer; `finish_reason` and `stop_text` come with the last."""

    delta: Delta
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: ChoiceLogprobs | None = None
    stop_text: str | None = None


def _now() -> int:
    return int(time.time())


def new_id() -> str:
    """Make the id of a completion."""
    return f"chatcmpl-{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True)
class ChatCompletion:
    """The answer to a chat."""

    model: str
    choices: list[Choice]
    usage: Usage
    timings: Timings
    id: str = field(default_factory=new_id)
    created: int = field(default_factory=_now)
    object: Literal["chat.completion"] = "chat.completion"
    answer_type: AnswerType | None = field(default=None, repr=False, compare=False)

    @property
    def text(self) -> str:
        """The content of the message."""
        return self.choices[0].message.content or ""

    @cached_property
    def parsed(self) -> Any:
        """The content as a value of the type that `response_format` asked for.

        None if nothing was asked for, the answer is truncated (`finish_reason` "length"), or tools were called.

        Raises:
            AnswerError: the type refuses the answer, for a reason that its JSON schema does not have.

        """
        complete = self.choices[0].finish_reason == "stop"
        return self.answer_type.read(self.text) if self.answer_type is not None and complete else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types of JSON."""
        made = asdict(replace(self, answer_type=None))
        del made["answer_type"]
        return made


@dataclass(frozen=True)
class ParsedChatCompletion(ChatCompletion, Generic[T]):
    """The answer to a chat with a class as its form."""

    @cached_property
    def parsed(self) -> T | None:
        """The content as an object of that class; see `ChatCompletion`."""
        found: T | None = super().parsed
        return found


@dataclass(frozen=True)
class ChatCompletionChunk:
    """A piece of a streamed answer; the last one has the finish reason, usage and timings."""

    model: str
    choices: list[ChunkChoice]
    id: str
    created: int
    usage: Usage | None = None
    timings: Timings | None = None
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types of JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Completion:
    """The continuation of a text."""

    text: str
    finish_reason: FinishReason
    timings: Timings
    answer_type: AnswerType | None = field(default=None, repr=False, compare=False)

    @property
    def usage(self) -> Usage:
        """Counts of tokens in OpenAI's form."""
        return usage(self.timings)

    @cached_property
    def parsed(self) -> Any:
        """The text as a value of the type that `response_format` asked for; see `ChatCompletion`."""
        complete = self.finish_reason == "stop"
        return self.answer_type.read(self.text) if self.answer_type is not None and complete else None


@dataclass(frozen=True)
class CompletionChunk:
    """A piece of a streamed continuation; the last one, without text, has the finish reason and timings."""

    text: str
    finish_reason: FinishReason | None = None
    timings: Timings | None = None

    @property
    def usage(self) -> Usage | None:
        """Counts of tokens in OpenAI's form, with the last piece."""
        return None if self.timings is None else usage(self.timings)
