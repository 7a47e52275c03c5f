"""Videos: frames sampled at a rate, in pairs with a time each, as Qwen3.5's own processor samples them.

Source of the sampling, the sizes and the times: transformers' `Qwen3VLVideoProcessor` and `Qwen3VLProcessor` (which
Qwen3.5 uses) with the `video_preprocessor_config.json` of the published checkpoints. PyAV decodes; it contains the
libraries of FFmpeg, no program is started.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen35_gguf.errors import MediaError, MissingDependencyError
from qwen35_gguf.runtime.field_checks import FOREVER, check_fields, checked, number, optional, whole
from qwen35_gguf.runtime.media.fetch import shorten
from qwen35_gguf.runtime.media.image import (
    FACTOR,
    MAX_RATIO,
    MediaLimits,
    Pixels,
    Source,
    check_file,
    check_size,
    content_hash,
    local_path,
    read_source,
    resized,
    source_name,
)

FRAMES_PER_PAIR = 2  # temporal_patch_size
# Containers of ordinary videos. Playlists (HLS, DASH, concat) are left out: they name other files and URLs.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,flv,ogg,gif,asf,apng,webp_anim"


@dataclass(frozen=True)
class VideoLimits:
    """How a video is sampled, how large its frames become, and how long reading may take.

    Attributes:
        fps: frames per second to sample.
        min_frames: at least N, unless the video has fewer.
        max_frames: at most N, spread over the whole video.
        min_pixels: in total over all frames; 4,096 is Qwen3.5's own.
        max_pixels: in total over all frames; 25,165,824 (24,576 tokens for each frame, 12,288 for each pair) is
            Qwen3.5's own.
        max_frame_tokens: a frame has at most N tokens; 768 is that of Qwen's reference code
            (qwen-vl-utils). None: only `max_pixels` counts, as in transformers without `cap_pixels_per_frame`.
        seconds: give up when decoding takes longer.

    """

    fps: float = checked(number(0, 1000, above=True), 2.0)
    min_frames: int = checked(whole(1), 4)
    max_frames: int = checked(whole(1), 768)
    min_pixels: int = checked(whole(1), 4096)
    max_pixels: int = checked(whole(FACTOR * FACTOR), 25165824)
    max_frame_tokens: int | None = checked(optional(whole(1)), 768)
    seconds: float = checked(number(0, FOREVER), 300.0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, eq=False)
class FramePair:
    """Two consecutive frames, which the vision encoder merges into one image's worth of tokens.

    Attributes:
        first: the earlier frame, (height, width, 3) uint8, read-only, sides multiples of 32.
        second: the later frame, of the same shape (the same frame again at the end of an odd number).
        seconds: the mean of their times.
        sha256: of both frames.

    """

    first: Pixels
    second: Pixels
    seconds: float
    sha256: str

    @property
    def label(self) -> str:
        """The text before the pair in the prompt."""
        return f"<{self.seconds:.1f} seconds>"

    @property
    def n_tokens(self) -> int:
        """The tokens that the pair takes, without the text before it."""
        height, width, _ = self.first.shape
        return int(height // FACTOR * (width // FACTOR))


@dataclass(frozen=True)
class Video:
    """A video as the model sees it: pairs of frames in order of time."""

    pairs: tuple[FramePair, ...]


def sample_indices(frames: int, fps: float, limits: VideoLimits) -> list[int]:
    """Choose which of a video's `frames` are used, evenly from the first to the last.

    Source: `sample_frames` of transformers' video_processing_qwen3_vl.
    """
    count = min(max(int(frames / fps * limits.fps), limits.min_frames), limits.max_frames, frames)
    return [int(index) for index in np.linspace(0, frames - 1, count).round()]


def pair_times(indices: list[int], fps: float) -> list[float]:
    """Seconds of each pair of frames: the mean of both. An odd last frame is a pair with itself."""
    padded = indices + indices[-1:] * (-len(indices) % FRAMES_PER_PAIR)
    return [(a / fps + b / fps) / 2 for a, b in zip(padded[::2], padded[1::2], strict=True)]


def frame_size(frames: int, height: int, width: int, limits: VideoLimits) -> tuple[int, int]:
    """Find the (height, width) of each of `frames` frames: multiples of 32, within the budget of the whole video.

    Source: `smart_resize` and `resize` of transformers' video_processing_qwen3_vl, with the rounding that they have.

    Raises:
        MediaError: one side is more than 200 times the other.

    """
    max_pixels = limits.max_pixels
    if limits.max_frame_tokens is not None:
        share = min(limits.max_frame_tokens * FACTOR**2, limits.max_pixels // frames)
        max_pixels = max(share, int(limits.min_pixels * 1.05)) * frames
    if height < FACTOR or width < FACTOR:
        scale = max(FACTOR / height, FACTOR / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) > MAX_RATIO * min(height, width):
        raise MediaError(f"{width} x {height} pixels: one side is more than {MAX_RATIO} times the other; crop it")
    rows, columns = round(height / FACTOR) * FACTOR, round(width / FACTOR) * FACTOR
    volume = round(frames / FRAMES_PER_PAIR) * FRAMES_PER_PAIR * rows * columns
    if volume > max_pixels:
        shrink = math.sqrt(frames * height * width / max_pixels)
        rows = max(FACTOR, math.floor(height / shrink / FACTOR) * FACTOR)
        columns = max(FACTOR, math.floor(width / shrink / FACTOR) * FACTOR)
    elif volume < limits.min_pixels:
        grow = math.sqrt(limits.min_pixels / (frames * height * width))
        rows = math.ceil(height * grow / FACTOR) * FACTOR
        columns = math.ceil(width * grow / FACTOR) * FACTOR
    return rows, columns


def load_video(source: Source, limits: MediaLimits | None = None, sampling: VideoLimits | None = None) -> Video:
    """Load a video: sample frames, turn them upright, resize them to the budget, pair them.

    Args:
        source: a path, an http(s) URL, a data URI, or the bytes of a video file.
        limits: what may be loaded; the pixel budget in it is for images and not used here.
        sampling: rate, number and size of the frames, and how long decoding may take.

    Raises:
        MediaError: it cannot be loaded, is not a video, is damaged, or is over a limit.
        MissingDependencyError: PyAV (or Pillow, which resizes) is not installed.

    """
    limits, sampling = limits or MediaLimits(), sampling or VideoLimits()
    if sampling.fps <= 0 or sampling.min_frames < 1 or sampling.max_frames < 1 or sampling.max_pixels < 1:
        raise MediaError("video: fps, min_frames, max_frames and max_pixels must be above 0; change VideoLimits")
    name = source_name(source)
    end = time.monotonic() + sampling.seconds

    def check_time() -> None:
        if time.monotonic() > end:
            raise MediaError(f"{name}: took longer than {sampling.seconds:g} s to decode; use a shorter video")

    try:
        with _opened(source, name, limits) as (container, stream):
            pts, keys = _index(container, stream, check_time)
            if not pts:
                raise MediaError(f"{name}: has no frames; get or save it again")
            fps = float(stream.average_rate or stream.guessed_rate or 24)
            wanted = sample_indices(len(pts), fps, sampling)
            frames: list[Pixels] = []
            size: tuple[int, int] | None = None
            for image in _frames(container, stream, [pts[i] for i in wanted], keys, check_time):
                check_size(image.width, image.height, name)
                size = size or frame_size(len(wanted), image.height, image.width, sampling)
                pixels = resized(image, *size)
                pixels.setflags(write=False)
                frames.append(pixels)
    except MediaError as error:
        raise error if str(error).startswith(name) else MediaError(f"{name}: {error}") from None
    if not frames:
        raise MediaError(f"{name}: none of its frames can be decoded; get or save it again")
    frames += frames[-1:] * (len(wanted) - len(frames))  # the last packets may be truncated
    frames += frames[-1:] * (-len(frames) % FRAMES_PER_PAIR)
    times = pair_times(wanted, fps)
    pairs = zip(frames[::2], frames[1::2], times, strict=True)
    return Video(tuple(FramePair(a, b, seconds, content_hash(a, b)) for a, b, seconds in pairs))


@contextlib.contextmanager
def _opened(source: Source, name: str, limits: MediaLimits) -> Iterator[tuple[Any, Any]]:
    """Open a video with PyAV and yield the container and its first video stream; its errors become ours."""
    try:
        import av
        import PIL  # noqa: F401  # PyAV makes its images
    except ImportError:
        message = "PyAV and Pillow are needed for videos; install them with pip install av pillow"
        raise MissingDependencyError(message) from None

    path = local_path(source, limits)
    with contextlib.ExitStack() as stack:
        if path is not None:
            check_file(path)  # a pipe may never end
            try:
                file: Any = stack.enter_context(path.open("rb"))
            except OSError as error:
                raise MediaError(f"{name}: {error.strerror or error}") from None
        else:
            file = io.BytesIO(read_source(source, limits))
        try:
            container = stack.enter_context(av.open(file, options={"format_whitelist": CONTAINERS}))
            if not container.streams.video:
                raise MediaError(f"{name}: has no video in it; name a video file")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise MediaError(f"{name}: is of a codec that is not known; save it as H.264")
            check_size(stream.codec_context.width, stream.codec_context.height, name)
            stream.thread_type = "AUTO"
            yield container, stream
        except MediaError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:  # a damaged offset reaches the file's own seek
            reason = shorten(getattr(error, "strerror", None) or str(error))
            raise MediaError(f"{name}: is not a video that can be read, or is damaged ({reason})") from None


def _index(container: Any, stream: Any, check_time: Any) -> tuple[list[int], list[int]]:
    """Read all packets without decoding: times of all frames in the order they are shown, and of the key frames."""
    pts, keys = [], []
    for packet in container.demux(stream):
        check_time()
        if packet.size and packet.pts is not None:
            pts.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    return sorted(set(pts)), sorted(keys)


def _frames(container: Any, stream: Any, wanted: list[int], keys: list[int], check_time: Any) -> Iterator[Any]:
    """Decode the frames at the times `wanted` (ascending) as upright PIL images; fewer if the video is truncated.

    It seeks to the key frame before the next wanted one where that is ahead, so that a long video is not decoded whole.
    """
    position: int | None = None  # time of the last key frame sought or frame decoded
    decoder: Iterator[Any] = iter(())
    shown: Any = None
    for target in wanted:
        at = bisect.bisect_right(keys, target) - 1
        if position is None or (at >= 0 and keys[at] > position):
            container.seek(keys[at] if at >= 0 else target, stream=stream)
            decoder, shown = container.decode(stream), None
        while shown is None or shown.pts is None or shown.pts < target:
            check_time()
            frame = next(decoder, None)
            if frame is None:
                break
            shown, position = frame, frame.pts
        if shown is None:
            return
        image = shown.to_image()
        yield image.rotate(shown.rotation, expand=True) if shown.rotation else image
