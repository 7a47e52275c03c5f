"""Images and videos of OpenAI-style messages: find and load them, and split the rendered prompt at their places."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen35_gguf.errors import MediaError
from qwen35_gguf.runtime.media.image import Image, MediaLimits, load_image
from qwen35_gguf.runtime.media.image_objects import load_object, read_file_object
from qwen35_gguf.runtime.media.video import Video, VideoLimits, load_video
from qwen35_gguf.runtime.media.vision_encoder import Visual

Message = Mapping[str, Any]

IMAGE_KEYS = ("image_url", "image")
VIDEO_KEYS = ("video_url", "video")
IMAGE_PLACE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO_PLACE = "<|vision_start|><|video_pad|><|vision_end|>"
START, END = "<|vision_start|>", "<|vision_end|>"


def collect(
    messages: Sequence[Message], limits: MediaLimits | None = None, sampling: VideoLimits | None = None
) -> tuple[list[dict[str, Any]], list[Image | Video]]:
    """Load the images and videos of messages.

    A part is `{"type": "image_url", "image_url": {"url": ...}}` or `{"type": "video_url", "video_url": {"url": ...}}`
    as OpenAI's (or with the URL itself in place of the inner object), or `{"type": "image", "image": ...}` and
    `{"type": "video", "video": ...}` as transformers'. The value is what `load_image` and `load_video` accept,
    what `load_object` accepts (images of Pillow, arrays, open files), or an `Image` or `Video` already loaded.

    Returns:
        The messages with each such part reduced to `{"type": "image"}` or `{"type": "video"}`, which the published
        template knows ("video_url" it does not); and the media in the order of their places in the prompt.

    Raises:
        MediaError: a part is malformed, its media cannot be loaded, or it is in a system message.
        MissingDependencyError: Pillow or PyAV is needed and not installed.

    """
    media: list[Image | Video] = []
    reduced = []
    for number, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, Sequence) and not isinstance(content, str):
            parts = [_part(part, f"messages[{number}].content[{i}]") for i, part in enumerate(content)]
            loaded = [_load(part, limits, sampling) if kind else None for kind, part in parts]
            if message.get("role") == "system" and any(loaded):
                raise MediaError(f"messages[{number}]: a system message takes no images; put them in a user message")
            media += [item for item in loaded if item is not None]
            content = [{"type": kind} if kind else part for kind, part in parts]
            reduced.append({**message, "content": content})
        else:
            reduced.append(dict(message))
    return reduced, media


def _part(part: Any, where: str) -> tuple[str, Any]:
    """Return the kind of a part ("image", "video", or "" for text) and what to load (or the part itself)."""
    if isinstance(part, str):
        return "", {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise MediaError(f"{where}: is neither text nor an object with a type")
    for kind, keys in (("image", IMAGE_KEYS), ("video", VIDEO_KEYS)):
        if part.get("type") in keys or any(key in part for key in keys):
            source = next((part[key] for key in keys if part.get(key) is not None), None)
            if isinstance(source, Mapping):
                source = source.get("url")
            if source is None or (isinstance(source, str) and not source):
                raise MediaError(f"{where}: names no {kind}; give a path, URL, data URI or bytes")
            return kind, (kind, source, where)
    if part.get("type") in ("input_audio", "audio", "file"):
        raise MediaError(f"{where}: {part['type']} is not supported by Qwen3.5")
    return "", part


def _load(part: tuple[str, Any, str], limits: MediaLimits | None, sampling: VideoLimits | None) -> Image | Video:
    kind, source, where = part
    if isinstance(source, Image if kind == "image" else Video):
        return source
    if not isinstance(source, str | bytes | bytearray | memoryview | os.PathLike):
        found = load_object(source, limits) if kind == "image" else None
        if found is not None:
            return found
        if kind == "video" and callable(getattr(source, "read", None)):
            return load_video(read_file_object(source, limits), limits, sampling)
        raise MediaError(f"{where}: {type(source).__name__} is not a path, URL, data URI, bytes, file or image")
    if isinstance(source, os.PathLike):
        source = Path(os.fsdecode(source))
    return load_image(source, limits) if kind == "image" else load_video(source, limits, sampling)


# ---- places in the prompt ----------------------------------------------------------------------------------------


def split_prompt(text: str, media: Sequence[Image | Video]) -> list[str | Visual]:
    """Split a rendered prompt at the places of its images and videos.

    Args:
        text: rendered by the chat template, with `IMAGE_PLACE` and `VIDEO_PLACE` in it.
        media: the images and videos in the order of their places.

    Returns:
        Texts (none empty) and images or pairs of frames, in order. Source of a video's form: `replace_video_token`
        of transformers' processing_qwen3_vl, which is given the bare `<|video_pad|>` between the two other tokens;
        here these are part of the place and not written a second time, as in the processor that Qwen published.

    Raises:
        MediaError: the places in the text are not those of `media`.

    """
    parts: list[str | Visual] = []
    written = ""
    rest = text
    for item in media:
        place = IMAGE_PLACE if isinstance(item, Image) else VIDEO_PLACE
        before, found, rest = rest.partition(place)
        if not found or IMAGE_PLACE in before or VIDEO_PLACE in before:
            raise MediaError(_misplaced(text, media))
        written += before
        if isinstance(item, Image):
            parts += [written + START, item]
            written = END
            continue
        for pair in item.pairs:
            parts += [written + pair.label + START, pair]
            written = END
    if IMAGE_PLACE in rest or VIDEO_PLACE in rest:
        raise MediaError(_misplaced(text, media))
    return [*parts, written + rest] if written + rest else parts


def _misplaced(text: str, media: Sequence[Image | Video]) -> str:
    places = text.count(IMAGE_PLACE) + text.count(VIDEO_PLACE)
    return (
        f"chat template: writes {places} places for images and videos, {len(media)} are given, or in another order; "
        "use the template of the family"
    )
