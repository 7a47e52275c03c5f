"""Images, videos, and where they come from."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import io
from collections.abc import Sequence
from typing import Any
from unittest import mock

from fuzz.target import Target, as_text
from qwen35_gguf.runtime.media import fetch
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
    if data.startswith(b"HTTP/"):
        read_answer(data)
    else:
        load_image(text, LIMITS)


class Answers:
    """In place of what opens connections: the answer is there."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        """What `http.client` reads of a socket."""
        return io.BytesIO(self.data)

    def open(self, _request: Any, **_: Any) -> http.client.HTTPResponse:
        """What `urllib` answers."""
        response = http.client.HTTPResponse(self)  # type: ignore[arg-type]
        response.begin()
        return response


def read_answer(data: bytes) -> None:
    """Read the answer of a server; the name of its status is also read as an address."""
    with contextlib.suppress(ValueError):
        fetch.is_public(as_text(data.split(b"\r\n")[0][13:]))
    with mock.patch.object(fetch, "_opener", return_value=Answers(data)):
        assert len(fetch.fetch("https://example.org/x", max_bytes=1000, timeout=60)) <= 1000


def source_seeds() -> list[bytes]:
    """One of each kind."""
    whole = b"data:image/png;base64," + base64.b64encode(image_seeds()[0])
    answers = [
        f"HTTP/1.1 200 {name}\r\n{fields}\r\n\r\n{body}".encode()
        for name, fields, body in (
            ("OK", "Content-Length: 5", "hello"), ("::ffff:10.0.0.1", "Content-Length: 9", "short"),
            ("64:ff9b::1", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"), ("10.0.0.1", "A: b", "x" * 2000),
            ("2002:7f00:1::", "Content-Length: 99999", "x"),
        )
    ]  # fmt: skip
    return [*answers, whole, b"data:,a%20b", b"https://[::1]/x.png", b"file:///etc/passwd", b"../x.png", b"ftp://x"]


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
