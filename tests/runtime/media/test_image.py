"""Images: sizes as transformers chooses them, upright and opaque, from anywhere; what may not be loaded is not."""

from __future__ import annotations

import base64
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from qwen35_gguf.errors import MediaError
from qwen35_gguf.runtime.chat.message_media import collect
from qwen35_gguf.runtime.media import image

SMALL = image.MediaLimits(min_pixels=1024)
LOCAL = image.MediaLimits(min_pixels=1024, allow_private=True, timeout=5, max_bytes=100_000)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def halves() -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (64, 96), "red")
    image.paste("blue", (0, 48, 64, 96))
    return image


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_sizes_are_those_of_transformers(height: int, width: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(MediaError, match="200 times"):
            image.smart_resize(height, width, 65536, 1 << 22)
    else:
        expected = smart_resize(height, width, factor=32, min_pixels=65536, max_pixels=1 << 22)
        assert image.smart_resize(height, width, 65536, 1 << 22) == expected


def test_paths_bytes_and_data_uris_give_the_same_image(tmp_path: Path) -> None:
    data = encoded(halves())
    file = tmp_path / "a.png"
    file.write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    found = [image.load_image(source, SMALL) for source in (file, str(file), data, uri)]
    assert len({one.sha256 for one in found}) == 1
    assert found[0].rgb.shape == (96, 64, 3)
    assert found[0].n_tokens == 6
    assert not found[0].rgb.flags.writeable


def test_a_turned_photo_is_upright() -> None:
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    plain, upside_down = (image.load_image(encoded(halves(), exif=e), SMALL).rgb for e in (Image.Exif(), turned))
    np.testing.assert_array_equal(upside_down, plain[::-1, ::-1])


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert (image.load_image(encoded(clear), SMALL).rgb == 255).all()


def test_what_cannot_be_an_image_is_refused_in_a_line(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    bomb = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"x"))
    good = encoded(halves())
    cases: list[tuple[Any, str]] = [
        (b"\x89PNG\r\n\x1a\n" + bomb, "120,000,000 pixels"),
        (b"no image", "image"),
        (good[:60], "damaged"),
        (tmp_path / "none.png", "does not exist"),
        (tmp_path, str(tmp_path)),
        ("data:image/png;base64,???", "data URI|base64"),
        ("file:///etc/hostname", "file://"),
        (encoded(Image.new("RGB", (3000, 4))), "200 times"),
    ]
    for source, message in cases:
        with pytest.raises(MediaError, match=message) as error:
            image.load_image(source, SMALL)
        assert "\n" not in str(error.value)


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        self.wfile.write(bytes(200_000) if self.path == "/huge" else encoded(halves()))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_urls(url: str) -> None:
    assert image.load_image(f"{url}/a", LOCAL).sha256 == image.load_image(encoded(halves()), SMALL).sha256
    for path, limits, message in [
        ("/a", SMALL, "private address"),
        ("/huge", LOCAL, "larger|more than|over"),
        ("/none", LOCAL, "404"),
        ("/away", LOCAL, "."),
    ]:
        with pytest.raises(MediaError, match=message):
            image.load_image(url + path, limits)


def test_messages_are_reduced_to_places_and_their_media() -> None:
    data = encoded(halves())
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    text = {"type": "text", "text": "What is this?"}
    part = {"type": "image_url", "image_url": {"url": uri}}
    messages, items = collect([{"role": "user", "content": [part, text]}, {"role": "user", "content": "And?"}], SMALL)
    assert messages[0]["content"] == [{"type": "image"}, text]
    assert messages[1] == {"role": "user", "content": "And?"}
    assert [item.sha256 for item in items if isinstance(item, image.Image)] == [image.load_image(data, SMALL).sha256]
    for bad, message in [
        ({"type": "image_url"}, "names no image"),
        ({"type": "input_audio"}, "input_audio"),
        (7, "text"),
    ]:
        with pytest.raises(MediaError, match=message):
            collect([{"role": "user", "content": [bad]}])
    with pytest.raises(MediaError, match="system"):
        collect([{"role": "system", "content": [part]}], SMALL)


def test_files_of_this_machine_can_be_switched_off_or_kept_to_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        Image.new("RGB", (64, 64)).save(folder / "a.png")
    (inside / "link.png").symlink_to(outside / "a.png")
    off, kept = image.MediaLimits(local_files=False), image.MediaLimits(roots=(inside,), allow_private=True)
    for source in (str(inside / "a.png"), inside / "a.png", (inside / "a.png").as_uri()):
        with pytest.raises(MediaError, match=r"is a local path|file:// is refused"):
            image.load_image(source, off)
        assert image.load_image(source, kept).rgb.shape[2] == 3
    for name in ("outside/a.png", "inside/../outside/a.png", "inside/link.png", "a\0b"):
        with pytest.raises(MediaError, match="is in none of the folders"):
            image.load_image(f"{tmp_path}/{name}", kept)
    assert image.load_image((inside / "a.png").read_bytes(), off).rgb.shape[2] == 3
