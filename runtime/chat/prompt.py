"""Turn the messages of a request into the items that the engine evaluates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.chat import message_media, thinking
from qwen35_gguf.runtime.chat.control_tokens import ControlTokens
from qwen35_gguf.runtime.chat.message_media import split_prompt
from qwen35_gguf.runtime.chat.openai_types import Message
from qwen35_gguf.runtime.chat.template import ChatTemplate, check_messages
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk, Place
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.media.image import FACTOR, Image, MediaLimits
from qwen35_gguf.runtime.media.video import VideoLimits
from qwen35_gguf.runtime.media.vision_encoder import Embedding, VisionEncoder, Visual, evaluate_image

MESSAGE_START = "<|im_start|>"
Items = list[int | MediaChunk]


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what follows from it for the answer.

    Attributes:
        items: token ids and images.
        inside: whether the answer begins inside of a think block.
        tools: the tools that it may call, as the tool-call parser takes them.
        follow: returns what the next prompt of the conversation begins with, given the answer: up to the next question.
            None if that is not known.

    """

    items: Items
    inside: bool = False
    tools: list[dict[str, Any]] | None = None
    follow: Callable[[Message], Items | None] | None = None


def chat_prompt(
    model: Model,
    template: ChatTemplate,
    messages: Any,
    *,
    tools: Any = None,
    enable_thinking: bool | None = None,
    reasoning_effort: str | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    vision: Callable[[], VisionEncoder],
    media_limits: MediaLimits | None = None,
    video_limits: VideoLimits | None = None,
) -> Prompt:
    """Check messages and tools, load the media, render the template and tokenize.

    Only the template writes control tokens: names of them in the messages and tools are text.

    Args:
        model: for its vocabulary.
        template: of the file.
        messages: OpenAI-style, see `message_media.collect` for images and videos.
        tools: OpenAI-style.
        enable_thinking: None leaves it to the template.
        reasoning_effort: see `ChatTemplate.render`.
        options: see there.
        vision: returns the vision encoder; called only if there are images.
        media_limits: see `message_media.collect`.
        video_limits: see `message_media.collect`.

    Raises:
        MessageError: the messages are malformed, or the template refuses them.
        ToolError: the tools, a call or a result is malformed.
        MediaError: an image or video cannot be loaded.
        VisionError: there is no vision encoder.

    """
    reduced, media = message_media.collect(check_messages(messages), media_limits, video_limits)
    checked = check_tools(tools) if tools else None
    control_tokens = ControlTokens(model.vocabulary)

    def render(messages: Sequence[Mapping[str, Any]], *, begins_answer: bool = True) -> str:
        try:
            marked = control_tokens.mark_messages(messages)
            more = control_tokens.mark({"tools": checked, "effort": reasoning_effort, "options": dict(options)})
        except RecursionError:
            raise MessageError("messages: a value is nested too deeply; send fewer levels") from None
        return template.render(
            marked,
            tools=more["tools"],
            enable_thinking=enable_thinking,
            reasoning_effort=more["effort"],
            add_generation_prompt=begins_answer,
            options=more["options"],
        )

    text = render(reduced)
    encoder = vision() if media else None
    items: Items = []
    for part in split_prompt(text, media):
        if isinstance(part, str):
            items += control_tokens.tokenize(part)
        elif encoder is not None:
            items.append(media_chunk(part, encoder))

    def follow(answer: Message) -> Items | None:
        later = render([*reduced, _in_history(answer), QUESTION], begins_answer=False)
        return _next_beginning(text, items, later, control_tokens)

    return Prompt(items, thinking.starts_inside(text), checked, follow)


QUESTION = {"role": "user", "content": "?"}  # stands for the next one


def _in_history(answer: Message) -> dict[str, Any]:
    """Give an answer the form in which callers repeat it, without its reasoning."""
    return {"role": "assistant", "content": answer.content or ""}


def _next_beginning(text: str, items: Items, later: str, control_tokens: ControlTokens) -> Items | None:
    """Return the items of a later prompt up to its last question; only what the answer adds is tokenized.

    Args:
        text: of the prompt.
        items: of the prompt.
        later: text of the messages, the answer and another question.
        control_tokens: makes tokens of texts.

    Returns:
        None if the later prompt does not begin with the messages of the prompt.

    """
    start = control_tokens.tokenize(MESSAGE_START)[0]
    answer, question = text.rfind(MESSAGE_START), later.rfind(MESSAGE_START)
    if answer <= 0 or start not in items or question <= answer or later[:answer] != text[:answer]:
        return None
    kept = len(items) - 1 - items[::-1].index(start)
    return [*items[:kept], *control_tokens.tokenize(later[answer:question])]


def media_chunk(visual: Visual, encoder: VisionEncoder) -> MediaChunk:
    """Make an image or a pair of frames an item of a prompt; it is encoded when it is evaluated, if ever."""
    height, width, _ = (visual.rgb if isinstance(visual, Image) else visual.first).shape
    rows, columns = height // FACTOR, width // FACTOR
    encoded: list[Embedding] = []  # until it is evaluated

    def encode() -> None:
        encoded.append(encoder.embed(visual))

    def evaluate(context: Context, place: Place) -> None:
        evaluate_image(context, encoded[0], place.pos, seq=place.seq, start=place.start, stop=place.stop)
        if place.stop == rows * columns:
            encoded.clear()

    return MediaChunk(visual.sha256, rows * columns, max(rows, columns), evaluate, encode, lambda: bool(encoded))
