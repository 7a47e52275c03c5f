"""Images from a path, URL, data URI or bytes, turned into the pixels that Qwen3.5's own processor would make.

What the sizes and the resizing are taken from: transformers' `Qwen2VLImageProcessor` (which Qwen3.5 uses) with the
`preprocessor_config.json` of the published checkpoints. Two differences: transparent images are laid over white
(there the colour under the transparency shows), and the default budget is a quarter (see `MediaLimits.max_pixels`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import MediaError, MessageError, MissingDependencyError
from qwen35_gguf.runtime.field_checks import FOREVER, bytes_of, check_fields, checked, file_paths, flag, number, whole
from qwen35_gguf.runtime.media.fetch import fetch, scheme_of, shorten

Pixels = npt.NDArray[np.uint8]
Source = str | Path | bytes | bytearray | memoryview

FACTOR = 32  # a token is 2 x 2 patches of 16 x 16 pixels
MAX_RATIO = 200
PROCESSOR_MIN_PIXELS, PROCESSOR_MAX_PIXELS = 65536, 16777216
MAX_DECODED_PIXELS = 120_000_000  # a 108-megapixel photo is 360 MB decoded
# Decoders of Pillow that may see untrusted bytes. Others start programs (EPS) or are rare and little tested.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


@dataclass(frozen=True)
class MediaLimits:
    """What may be loaded, and how large an image becomes.

    Attributes:
        max_bytes: of a downloaded or opened file (a video on disk is not limited).
        timeout: seconds for a download.
        allow_private: also download from private, loopback and link-local addresses, and accept file:// URLs.
        https_only: download over https alone, also after a redirect.
        local_files: load files of this machine that a request names; switch it off for requests of others.
        roots: folders in which these files must be, links resolved; empty: anywhere.
        min_pixels: a smaller image is enlarged; 65,536 (64 tokens) is Qwen3.5's own.
        max_pixels: a larger image is reduced. 4,194,304 (4,096 tokens) is llama.cpp's default; Qwen3.5's own is
            16,777,216 (16,384 tokens), which takes a CPU many minutes.

    """

    max_bytes: int = checked(bytes_of(1), 64 << 20)
    timeout: float = checked(number(0, FOREVER, above=True), 30.0)
    allow_private: bool = checked(flag, False)
    https_only: bool = checked(flag, False)
    local_files: bool = checked(flag, True)
    roots: tuple[Path, ...] = checked(file_paths, ())
    min_pixels: int = checked(whole(1), PROCESSOR_MIN_PIXELS)
    max_pixels: int = checked(whole(FACTOR * FACTOR), PROCESSOR_MAX_PIXELS // 4)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_pixels < self.min_pixels:
            if self.min_pixels != PROCESSOR_MIN_PIXELS:
                raise MessageError(f"min_pixels: {self.min_pixels:,} is more than max_pixels, {self.max_pixels:,}")
            object.__setattr__(self, "min_pixels", self.max_pixels)


@dataclass(frozen=True, eq=False)
class Image:
    """An image ready for the vision encoder.

    Attributes:
        rgb: (height, width, 3) uint8, read-only, both sides multiples of 32.
        sha256: of the size and the pixels, in hexadecimal: the same image at the same size, however it was stored.

    """

    rgb: Pixels
    sha256: str

    @property
    def n_tokens(self) -> int:
        """The tokens that the image takes."""
        height, width, _ = self.rgb.shape
        return int(height // FACTOR * (width // FACTOR))


def smart_resize(height: int, width: int, min_pixels: int, max_pixels: int, factor: int = FACTOR) -> tuple[int, int]:
    """Find the (height, width) near the given one that are multiples of `factor` and within the pixel budget.

    Source: `smart_resize` of transformers' image_processing_qwen2_vl, with the rounding that it has.

    Raises:
        MediaError: one side is more than 200 times the other.

    """
    if max(height, width) > MAX_RATIO * min(height, width):
        raise MediaError(f"{width} x {height} pixels: one side is more than {MAX_RATIO} times the other; crop it")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def content_hash(*arrays: Pixels) -> str:
    """SHA-256 of the shapes and the bytes of arrays, in hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def load_image(source: Source, limits: MediaLimits | None = None) -> Image:
    """Load an image: EXIF rotation applied, transparency over white, RGB, resized to the pixel budget.

    Of an animation the first frame is taken.

    Args:
        source: a path, an http(s) URL, a data URI, or the bytes of an image file.
        limits: what may be loaded, and how large it becomes; by default `MediaLimits()`.

    Raises:
        MediaError: it cannot be loaded or decoded, is over a limit, or is far too narrow.
        MissingDependencyError: Pillow is not installed.

    """
    limits = limits or MediaLimits()
    name = source_name(source)
    image = _decode(read_source(source, limits), name)
    try:
        height, width = smart_resize(image.height, image.width, limits.min_pixels, limits.max_pixels)
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from None
    return from_pixels(resized(image, height, width))


def from_pixels(rgb: Pixels) -> Image:
    """Wrap pixels, (height, width, 3) uint8 with sides that are multiples of 32; the budget is not applied.

    Raises:
        MediaError: the array is of another shape or type.

    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise MediaError(f"pixels: {rgb.dtype} {rgb.shape} is not uint8 (height, width, 3); convert them first")
    if rgb.shape[0] % FACTOR or rgb.shape[1] % FACTOR:
        raise MediaError(f"pixels: {rgb.shape[1]} x {rgb.shape[0]} are not multiples of {FACTOR}; resize them first")
    pixels = np.array(rgb, order="C")
    pixels.setflags(write=False)
    return Image(pixels, content_hash(pixels))


def resized(image: Any, height: int, width: int) -> Pixels:
    """Pixels of a PIL image in mode RGB at a new size, (height, width, 3) uint8: bicubic, as the processor does."""
    from PIL import Image as PilImage

    if image.size != (width, height):
        image = image.resize((width, height), PilImage.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def _decode(data: bytes, name: str) -> Any:
    """Decode an image file into an upright PIL image in mode RGB."""
    try:
        from PIL import Image as PilImage
        from PIL import ImageOps, UnidentifiedImageError
    except ImportError:
        message = "Pillow is needed for images; install it with pip install pillow"
        raise MissingDependencyError(message) from None

    PilImage.init()
    known = [name for name in FORMATS if name in PilImage.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes (checked below) and odd metadata
            with PilImage.open(io.BytesIO(data), formats=known) as image:
                width, height = image.size
                check_size(width, height, name)
                image.load()
                return over_white(ImageOps.exif_transpose(image))
    except MediaError:
        raise
    except PilImage.DecompressionBombError:
        raise MediaError(f"{name}: far more than {MAX_DECODED_PIXELS:,} pixels; reduce it first") from None
    except UnidentifiedImageError:
        kinds = ", ".join(kind for kind in known if kind != "MPO")
        raise MediaError(f"{name}: is not an image that can be read ({kinds})") from None
    except (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, IndexError, KeyError, TypeError) as error:
        # Pillow does not document what its decoders raise for damaged files.
        raise MediaError(f"{name}: is damaged ({shorten(str(error))}); get or save it again") from None


def check_size(width: int, height: int, name: str) -> None:
    """Refuse what would take too much memory to decode.

    Raises:
        MediaError: there are no pixels, or too many.

    """
    if width < 1 or height < 1:
        raise MediaError(f"{name}: has no pixels")
    if width * height > MAX_DECODED_PIXELS:
        raise MediaError(f"{name}: {width:,} x {height:,} is more than {MAX_DECODED_PIXELS:,} pixels; reduce it first")


def over_white(image: Any) -> Any:
    """Return an image of Pillow in mode RGB, with what is transparent over white."""
    from PIL import Image as PilImage

    if image.mode.startswith("I"):  # 16-bit grey; Pillow would clip it to 8 bits
        return PilImage.fromarray((np.clip(np.asarray(image), 0, 0xFFFF) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = PilImage.new("RGBA", image.size, (255, 255, 255, 255))
        return PilImage.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


# ---- where the bytes come from -----------------------------------------------------------------------------------


def source_name(source: Source) -> str:
    """Name a source in one short line, for messages."""
    if isinstance(source, Path):
        return shorten(str(source))
    if isinstance(source, str):
        return f"{source[:5].lower()}{shorten(source[5:], 30)}" if is_data_uri(source) else shorten(source)
    return f"{len(source):,} bytes"


def is_data_uri(source: str) -> bool:
    """Report whether a string is a data URI."""
    return source[:5].lower() == "data:"


def local_path(source: Source, limits: MediaLimits) -> Path | None:
    """Return the path that a source names, or None when it is a URL, a data URI or bytes.

    Raises:
        MediaError: a file:// URL or path that is not allowed, or a URL that is neither file nor http(s).

    """
    if isinstance(source, Path):
        return _permitted(source, limits)
    if not isinstance(source, str) or is_data_uri(source):
        return None
    scheme = scheme_of(source) if "://" in source[:16] else ""
    if scheme in ("http", "https"):
        return None
    if scheme == "file":
        if not limits.allow_private:
            raise MediaError(f"{shorten(source)}: file:// is refused; give a path, or allow_private=True")
        return _permitted(Path(url2pathname(urlsplit(source).path)), limits)
    if scheme:
        raise MediaError(f"{shorten(source)}: {scheme}:// is not supported; give a path, http(s), a data URI or bytes")
    return _permitted(Path(source), limits)


def _permitted(path: Path, limits: MediaLimits) -> Path:
    """Return a path, links resolved where folders are prescribed, if files there may be loaded."""
    if not limits.local_files:
        raise MediaError(f"{shorten(str(path))}: is a local path, which is off; give a URL, data URI or bytes")
    if not limits.roots:
        return path
    try:
        real = path.resolve()
        inside = any(real.is_relative_to(root.resolve()) for root in limits.roots)
    except (OSError, ValueError, RuntimeError):  # a null character, or links in a circle
        inside = False
    if not inside:
        raise MediaError(f"{shorten(str(path))}: is in none of the folders of roots; move it there")
    return real


def read_source(source: Source, limits: MediaLimits) -> bytes:
    """Return the bytes of a source.

    Raises:
        MediaError: it cannot be loaded, or is over a limit.

    """
    path = local_path(source, limits)
    if path is not None:
        return _read_file(path, limits.max_bytes)
    if isinstance(source, str):
        if not is_data_uri(source):
            return fetch(
                source,
                max_bytes=limits.max_bytes,
                timeout=limits.timeout,
                allow_private=limits.allow_private,
                https_only=limits.https_only,
            )
        data = _data_uri(source)
    else:
        data = bytes(source)
    if len(data) > limits.max_bytes:
        raise MediaError(f"{source_name(source)}: more than {limits.max_bytes:,}; use a smaller one or raise max_bytes")
    return data


def check_file(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
        MediaError: it is missing or not a regular file: a pipe or device may never end.

    """
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise MediaError(f"{shorten(str(path))}: {what}; name an image or video file")
        return path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise MediaError(f"{shorten(str(path))}: {error}; name an image or video file") from None


def _read_file(path: Path, max_bytes: int) -> bytes:
    size = check_file(path)
    if size > max_bytes:
        message = f"{size:,} bytes are more than {max_bytes:,}; use a smaller file or raise max_bytes"
        raise MediaError(f"{shorten(str(path))}: {message}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"{shorten(str(path))}: {error.strerror or error}") from None


def _data_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma:
        raise MediaError(f"{source_name(uri)}: a data URI has a comma before its content; check it")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode(unquote_to_bytes(body), validate=True)
        return unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{source_name(uri)}: is not base64 ({error}); check it") from None
