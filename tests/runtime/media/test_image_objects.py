"""Images of Pillow, arrays of any kind and open files become what the same image as a file becomes."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as st_numpy

from qwen35_gguf.errors import MediaError
from qwen35_gguf.runtime.media.image import MediaLimits, load_image
from qwen35_gguf.runtime.media.image_objects import load_object, read_file_object

PilImage = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
pytestmark = pytest.mark.unit

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 255, (70, 90, 3), np.uint8)
RGBA = RNG.integers(0, 255, (70, 90, 4), np.uint8)


def as_file(pixels: Any) -> bytes:
    file = io.BytesIO()
    PilImage.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Tensor:
    """What a tensor of another library shows to NumPy."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.values, dtype)


@pytest.mark.parametrize(
    ("source", "same"),
    [
        (PilImage.fromarray(RGB), RGB),
        (PilImage.fromarray(RGBA), RGBA),
        (PilImage.fromarray(RGB).convert("P", palette=PilImage.Palette.ADAPTIVE), None),
        (RGB, RGB),
        (RGBA, RGBA),
        (RGB[:, :, 0], RGB[:, :, 0]),
        (RGB[:, :, :1], RGB[:, :, 0]),
        (RGB.transpose(2, 0, 1), RGB),
        (RGB[None], RGB),
        (RGB[:, ::-1], np.ascontiguousarray(RGB[:, ::-1])),
        (RGB / np.float32(255), RGB),
        (RGB.astype(np.float64) / 255, RGB),
        (RGB.astype(np.int64), RGB),
        (RGB.astype(np.uint16) * 257, RGB),
        (RGB > 100, np.where(RGB > 100, np.uint8(255), np.uint8(0))),
        (Tensor(RGB), RGB),
        (io.BytesIO(as_file(RGB)), RGB),
    ],
)
def test_an_object_is_what_its_file_would_be(source: Any, same: Any) -> None:
    found = load_object(source)
    assert found is not None
    expected = load_image(as_file(RGB if same is None else same))
    assert found.rgb.shape == expected.rgb.shape
    if same is not None:
        np.testing.assert_array_equal(found.rgb, expected.rgb)


def test_pixels_that_fit_are_taken_as_they_are() -> None:
    pixels = RNG.integers(0, 255, (64, 96, 3), np.uint8)
    found = load_object(pixels)
    assert found is not None
    np.testing.assert_array_equal(found.rgb, pixels)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((3, 4, 5, 6)), "the shape"),
        (np.zeros((8, 8, 2), np.uint8), "the shape"),
        (np.zeros((0, 8, 3), np.uint8), "the shape"),
        (np.zeros(5, np.uint8), "the shape"),
        (np.full((8, 8, 3), np.nan), "is not within 0 to 1"),
        (np.full((8, 8, 3), 200.0), "is not within 0 to 1"),
        (np.full((8, 8, 3), -1), "is not within 0 to 255"),
        (np.full((8, 8, 3), "a"), "is not a number"),
        (np.full((8, 8, 3), object()), "is not a number"),
        (np.zeros((1, 900, 3), np.uint8), "one side is more than 200 times"),
        (io.StringIO("text"), "open as text"),
        (io.BytesIO(b""), "is not an image"),
    ],
)
def test_what_is_no_image_is_refused_in_a_line(source: Any, words: str) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        load_object(source)
    assert "\n" not in str(caught.value)


def test_other_objects_are_none() -> None:
    assert load_object(object()) is None
    assert load_object(5) is None


@settings(max_examples=100, deadline=None)
@given(st_numpy.arrays(st_numpy.scalar_dtypes(), st_numpy.array_shapes(max_dims=4, max_side=40)))
def test_any_array_becomes_an_image_or_a_message(values: Any) -> None:
    with contextlib.suppress(MediaError):
        found = load_object(values, MediaLimits(min_pixels=1024))
        assert found is not None
        assert found.rgb.dtype == np.uint8


def test_a_file_can_be_read_again_and_at_its_end() -> None:
    data = as_file(RGB)
    file = io.BytesIO(data)
    assert [read_file_object(file), read_file_object(file), file.tell()] == [data, data, 0]
    file.seek(0, io.SEEK_END)
    assert [read_file_object(file), file.tell()] == [data, len(data)]
    behind = io.BytesIO(b"header" + data)
    behind.seek(6)
    assert [read_file_object(behind), behind.tell()] == [data, 6]


def test_a_file_without_positions_is_read_once() -> None:
    class Pipe:
        def __init__(self, data: bytes) -> None:
            self.left = data

        def read(self, size: int) -> bytes:
            data, self.left = self.left[:size], self.left[size:]
            return data

    assert read_file_object(Pipe(as_file(RGB))) == as_file(RGB)
