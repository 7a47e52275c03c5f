"""Pictures and videos of OpenAI-style messages: found, loaded, and replaced by what the chat template understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_gguf.errors import MediaError
from qwen35_gguf.runtime.media.image import MediaLimits, Picture, load_image, picture
from qwen35_gguf.runtime.media.video import Video, VideoLimits, load_video

Message = Mapping[str, Any]

IMAGE_KEYS = ("image_url", "image")
VIDEO_KEYS = ("video_url", "video")


def collect(
    messages: Sequence[Message], limits: MediaLimits | None = None, sampling: VideoLimits | None = None
) -> tuple[list[dict[str, Any]], list[Picture | Video]]:
    """Load the pictures and videos of messages.

    A part is `{"type": "image_url", "image_url": {"url": ...}}` or `{"type": "video_url", "video_url": {"url": ...}}`
    as OpenAI's (or with the URL itself in place of the inner object), or `{"type": "image", "image": ...}` and
    `{"type": "video", "video": ...}` as transformers'. What stands there is whatever `load_image` and `load_video`
    take, a pixel array for `picture`, or a `Picture` or `Video` already loaded.

    Returns:
        The messages with each such part reduced to `{"type": "image"}` or `{"type": "video"}`, which the published
        template knows ("video_url" it does not); and the media in the order of their places in the prompt.

    Raises:
        MediaError: a part is malformed, its media cannot be loaded, or it stands in a system message.
        MissingDependencyError: Pillow or PyAV is needed and not installed.

    """
    media: list[Picture | Video] = []
    reduced = []
    for number, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, Sequence) and not isinstance(content, str):
            parts = [_part(part, f"messages[{number}].content[{i}]") for i, part in enumerate(content)]
            loaded = [_load(part, limits, sampling) if kind else None for kind, part in parts]
            if message.get("role") == "system" and any(loaded):
                raise MediaError(f"messages[{number}]: a system message takes no pictures; put them in a user message")
            media += [item for item in loaded if item is not None]
            content = [{"type": kind} if kind else part for kind, part in parts]
            reduced.append({**message, "content": content})
        else:
            reduced.append(dict(message))
    return reduced, media


def _part(part: Any, where: str) -> tuple[str, Any]:
    """Tell the kind of a part ("image", "video", or "" for text) and what there is to load (or the part itself)."""
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
        raise MediaError(f"{where}: {part['type']} is not something that Qwen3.5 takes")
    return "", part


def _load(part: tuple[str, Any, str], limits: MediaLimits | None, sampling: VideoLimits | None) -> Picture | Video:
    kind, source, where = part
    if isinstance(source, Picture if kind == "image" else Video):
        return source
    if kind == "image" and hasattr(source, "dtype"):
        return picture(source)
    if not hasattr(source, "__fspath__") and not isinstance(source, str | bytes | bytearray | memoryview):
        raise MediaError(f"{where}: {type(source).__name__} is not a path, URL, data URI or bytes")
    return load_image(source, limits) if kind == "image" else load_video(source, limits, sampling)
