"""Videos to test with, encoded by FFmpeg."""

from __future__ import annotations

import io

import av
import numpy as np


def clip(frames: int, rate: int = 4, size: tuple[int, int] = (64, 96)) -> bytes:
    """A lossless clip whose n-th frame has the grey level 10 n."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
        for number in range(frames):
            pixels = np.full((*size, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
