"""Images, videos, and where they come from."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence

from fuzz.target import Target, as_text
from qwen35_gguf.runtime.media.image import MediaLimits, load_image

LIMITS = MediaLimits(max_bytes=1 << 16, local_files=False, max_pixels=1 << 16, timeout=0.001)


def read_image(data: bytes) -> None:
    """Decode an image; none is larger than the budget."""
    image = load_image(data, LIMITS)
    assert image.rgb.nbytes <= 3 << 17


@functools.cache
def image_seeds() -> Sequence[bytes]:
    """A small image in each format."""
    from PIL import Image

    found = []
    for kind, mode in (
        ("PNG", "RGBA"),
        ("JPEG", "RGB"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "L"),
        ("PPM", "RGB"),
    ):
        with io.BytesIO() as file:
            Image.new(mode, (40, 33)).save(file, kind)
            found.append(file.getvalue())
    return found


def read_source(data: bytes) -> None:
    """Load an image from a text: a URL, a data URI, a path."""
    text = as_text(data)
    if text[:5].lower() == "http:" or text[:6].lower() == "https:":
        text = text.replace("//", "//127.0.0.1:9/", 1)  # which no test may reach: it is refused before
    load_image(text, LIMITS)


def source_seeds() -> list[bytes]:
    """One of each kind."""
    whole = b"data:image/png;base64," + base64.b64encode(image_seeds()[0])
    return [whole, b"data:,a%20b", b"https://[::1]/x.png", b"file:///etc/passwd", b"../x.png", b"ftp://x"]


def read_video(data: bytes) -> None:
    """Sample a video."""
    from qwen35_gguf.runtime.media.video import VideoLimits, load_video

    sampling = VideoLimits(max_frames=4, max_pixels=1 << 16, seconds=3)
    for pair in load_video(data, LIMITS, sampling).pairs:
        assert pair.first.nbytes <= 3 << 17


@functools.cache
def video_seeds() -> Sequence[bytes]:
    """Four frames in each of a few containers."""
    import av
    from PIL import Image

    found = []
    for container, codec in (("mp4", "mpeg4"), ("avi", "mjpeg"), ("matroska", "mpeg4"), ("gif", "gif")):
        with io.BytesIO() as file:
            with av.open(file, "w", format=container) as made:
                stream = made.add_stream(codec, rate=4)
                stream.width, stream.height = 32, 32
                stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
                for shade in range(4):
                    made.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 32), (60 * shade,) * 3))))
                made.mux(stream.encode(None))
            found.append(file.getvalue())
    return found


ROOM = "qwen35_gguf.runtime.media"
TARGETS = (
    Target("image", read_image, image_seeds, (f"{ROOM}.image",), ("IHDR", "Exif", "RIFF"), ("PIL",), longest=8192),
    Target(
        "source", read_source, source_seeds, (f"{ROOM}.fetch",), ("data:", ";base64,", "http://", "@", "%00"), ("PIL",)
    ),
    Target(
        "video",
        read_video,
        video_seeds,
        (f"{ROOM}.video",),
        ("moov", "ftyp", "mdat", "trak"),
        ("av", "PIL"),
        longest=16384,
    ),
)
