"""Images that are objects in memory: of Pillow, NumPy, torch and the like, and open files."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import MediaError, MissingDependencyError
from qwen35_gguf.runtime.media.image import (
    FACTOR,
    Image,
    MediaLimits,
    Pixels,
    check_size,
    from_pixels,
    load_image,
    over_white,
    resized,
    smart_resize,
)

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def load_object(source: Any, limits: MediaLimits | None = None) -> Image | None:
    """Turn an object into an image; None if it is not one.

    Args:
        source: an image of Pillow; an array, or an object with `__array__` such as a tensor of torch; or an open
            binary file. An array is (height, width) or (height, width, 1, 3 or 4), or has the channels first; uint8,
            other integers up to 255 (uint16: up to 65,535), booleans, or floats from 0 to 1. uint8 RGB whose sides are
            multiples of 32 is taken as it is; everything else is resized to the pixel budget as a file would be.
        limits: see `load_image`.

    Raises:
        MediaError: it has another shape or values, or is damaged.
        MissingDependencyError: Pillow is needed and not installed.

    """
    limits = limits or MediaLimits()
    if hasattr(source, "convert") and hasattr(source, "mode") and hasattr(source, "getbands"):
        return _sized(source, limits)
    if hasattr(source, "__array__") or hasattr(source, "__array_interface__"):
        return _from_array(source, limits)
    if callable(getattr(source, "read", None)):
        return load_image(read_file_object(source, limits), limits)
    return None


def read_file_object(file: Any, limits: MediaLimits | None = None) -> bytes:
    """Read an open binary file, no more than the limit and a byte, and leave its position as it was.

    So the same message can be sent again with the next turn. A file at its end, as one that was just written, is read
    from its beginning.

    Raises:
        MediaError: it is open as text, or cannot be read.

    """
    limits = limits or MediaLimits()
    try:
        seekable = bool(getattr(file, "seekable", bool)())
        at = file.tell() if seekable else 0
        data = file.read(limits.max_bytes + 1)
        if at and not data:
            file.seek(0)
            data = file.read(limits.max_bytes + 1)
        if seekable:
            file.seek(at)
    except Exception as error:  # of a foreign class
        raise MediaError(f"file: cannot be read ({error}); open it in binary mode") from None
    if not isinstance(data, bytes | bytearray | memoryview):
        raise MediaError("file: is open as text; open it in binary mode")
    return bytes(data)


def _sized(image: Any, limits: MediaLimits) -> Image:
    """Resize an image of Pillow to the budget, upright and over white."""
    from PIL import ImageOps

    check_size(image.width, image.height, "image")
    try:
        upright = over_white(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # a lazily opened file
        raise MediaError(f"image: is damaged ({error}); get or save it again") from None
    height, width = smart_resize(upright.height, upright.width, limits.min_pixels, limits.max_pixels)
    return from_pixels(resized(upright, height, width))


def _from_array(source: Any, limits: MediaLimits) -> Image:
    try:
        values = np.asarray(source)
    except Exception as error:  # of a foreign class, such as a tensor on a GPU
        raise MediaError(f"pixels: cannot be read ({str(error).splitlines()[0][:80]})") from None
    pixels = _to_uint8(_channels_last(values))
    exact = values.dtype == np.uint8 and values.shape == pixels.shape and pixels.shape[2] == 3
    if exact and not pixels.shape[0] % FACTOR and not pixels.shape[1] % FACTOR:
        return from_pixels(pixels)
    try:
        from PIL import Image as PilImage
    except ImportError:
        message = "Pillow is needed for images; install it with pip install pillow"
        raise MissingDependencyError(message) from None
    check_size(pixels.shape[1], pixels.shape[0], "pixels")
    return _sized(PilImage.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), limits)


def _channels_last(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bring an array to (height, width, channels)."""
    if values.ndim == 4 and values.shape[0] == 1:  # a batch of one
        values = values[0]
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim == 3 and values.shape[2] not in CHANNELS and values.shape[0] in CHANNELS:
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] not in CHANNELS or not values.size:
        raise MediaError(f"pixels: the shape {values.shape} is not (height, width) or (height, width, 1, 3 or 4)")
    return values


def _to_uint8(values: npt.NDArray[Any]) -> Pixels:
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if kind == "b":
        white: Pixels = values.astype(np.uint8) * np.uint8(255)
        return white
    if kind not in "iuf":
        raise MediaError(f"pixels: the type {values.dtype} is not a number; use uint8, or floats from 0 to 1")
    low, high = float(values.min()), float(values.max())
    limit = 1.0 if kind == "f" else 65535.0 if values.dtype == np.uint16 else 255.0
    if not 0 <= low <= high <= limit:  # also false for NaN
        raise MediaError(f"pixels: {values.dtype} from {low:g} to {high:g} is not within 0 to {limit:g}")
    scaled: Pixels = np.rint(values.astype(np.float64) * (255.0 / limit)).astype(np.uint8)
    return scaled
