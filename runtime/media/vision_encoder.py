"""The vision encoder: images into embeddings, once each, and embeddings into a context.

Positions: an image of R x C tokens takes R * C cells of the context but only max(R, C) positions (M-RoPE): the next
text token is at `pos + embedding.n_pos`. Count cells against `n_ctx`. In a prefix cache compare `Embedding.sha256`
where tokens are compared.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import VisionError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.llama.mtmd import VisionContext
from qwen35_gguf.runtime.media.image import FACTOR, Image
from qwen35_gguf.runtime.media.video import FramePair

PROJECTOR = "qwen3vl_merger"

FloatArray = npt.NDArray[np.float32]
Visual = Image | FramePair


@dataclass(frozen=True, eq=False)
class Embedding:
    """One image, or one pair of frames, as the text model takes it.

    Attributes:
        values: (rows * columns, n_embd) float32, read-only, row by row.
        rows: of tokens, not of patches.
        columns: of tokens.
        sha256: of the pixels.

    """

    values: FloatArray
    rows: int
    columns: int
    sha256: str

    @property
    def n_tokens(self) -> int:
        """The cells of the context that it takes."""
        return self.rows * self.columns

    @property
    def n_pos(self) -> int:
        """How far it moves the position of what follows."""
        return max(self.rows, self.columns)


class VisionEncoder(Closing):
    """A loaded vision encoder (mmproj) and a cache of its embeddings.

    Attributes:
        encoded: images that were encoded so far.
        n_embd: width of an embedding.

    """

    def __init__(
        self, mmproj: Path, model: Model, *, n_threads: int = 4, use_gpu: bool = False, cache_bytes: int = 256 << 20
    ) -> None:
        """Load a vision encoder for a text model.

        Args:
            mmproj: the GGUF of the vision encoder.
            model: must outlive it.
            n_threads: for encoding.
            use_gpu: encode on the GPU.
            cache_bytes: of embeddings kept, least recently used dropped first. 1,000 tokens of the 9B take 16 MB.

        Raises:
            VisionError: the file is missing, damaged, not a vision encoder of Qwen3.5, or one of another model.

        """
        check_mmproj(mmproj, model.n_embd)
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Embedding] = OrderedDict()
        self._cache_bytes, self._cached_bytes = cache_bytes, 0
        self.encoded = 0
        self.n_embd = model.n_embd
        self._context = VisionContext(mmproj, model, n_threads=n_threads, use_gpu=use_gpu)

    def close(self) -> None:
        """Free the encoder and the cache; a second call does nothing."""
        with self._lock:
            self._context.close()
            self._cache.clear()
            self._cached_bytes = 0

    def embed(self, visual: Visual) -> Embedding:
        """Encode an image or a pair of frames, or take it from the cache.

        Raises:
            VisionError: the encoder is closed, or fails.

        """
        with self._lock:
            if not self._context.handle:
                raise VisionError("vision encoder: it was closed; load the model again")
            known = self._cache.get(visual.sha256)
            if known is not None:
                self._cache.move_to_end(visual.sha256)
                return known
            frames = [visual.rgb] if isinstance(visual, Image) else [visual.first, visual.second]
            values = self._context.encode(frames)
            self.encoded += 1
            height, width, _ = frames[0].shape
            embedding = Embedding(values, height // FACTOR, width // FACTOR, visual.sha256)
            if embedding.n_tokens != len(values):
                found = f"{len(values)} tokens for {embedding.rows} x {embedding.columns}"
                raise VisionError(f"vision encoder: it made {found}; convert or download the mmproj again")
            self._keep(embedding)
            return embedding

    def _keep(self, embedding: Embedding) -> None:
        if embedding.values.nbytes > self._cache_bytes:
            return
        self._cache[embedding.sha256] = embedding
        self._cached_bytes += embedding.values.nbytes
        while self._cached_bytes > self._cache_bytes:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.values.nbytes


def check_mmproj(mmproj: Path, n_embd: int) -> None:
    """Check, from the header alone, that a file is the vision encoder of a Qwen3.5 of this width.

    Raises:
        VisionError: it is not.

    """
    try:
        header = read_header(mmproj)
    except Exception as error:
        raise VisionError(str(error)) from None
    if header.architecture != "clip" or not header.value("clip.has_vision_encoder"):
        found = header.architecture
        raise VisionError(f"{mmproj}: is not a vision encoder but a model of {found}; name the file mmproj-*.gguf")
    kind = header.value("clip.vision.projector_type") or header.value("clip.projector_type")
    if kind != PROJECTOR:
        raise VisionError(f"{mmproj}: is a vision encoder of another family ({kind}); use the one of this model")
    width = header.value("clip.vision.projection_dim")
    if width != n_embd:
        message = f"its embeddings have width {width}, the text model takes {n_embd}"
        raise VisionError(f"{mmproj}: belongs to another model ({message}); use the one of this model")


def image_positions(embedding: Embedding, pos: int) -> npt.NDArray[np.int32]:
    """Return the positions of an image that begins at `pos`, (4, tokens) int32: time, row, column, and zeros."""
    row, column = np.divmod(np.arange(embedding.n_tokens, dtype=np.int32), np.int32(embedding.columns))
    time = np.zeros_like(row)
    return np.stack([time + np.int32(pos), row + np.int32(pos), column + np.int32(pos), time])


def evaluate_image(
    context: Context, embedding: Embedding, pos: int, *, seq: int = 0, start: int = 0, stop: int | None = None
) -> int:
    """Evaluate an image that begins at position `pos`, or some of its rows, and return the position of what follows.

    Args:
        context: of the model that the embedding was made for.
        embedding: of the image.
        pos: where it begins.
        seq: the sequence.
        start: the first row.
        stop: the row after the last; None: of all.

    Raises:
        ContextError: the context is full; count with `Embedding.n_tokens`.
        ModelError: llama.cpp fails.

    """
    positions = image_positions(embedding, pos)
    stop = embedding.n_tokens if stop is None else stop
    for first in range(start, stop, context.n_batch):
        rows = slice(first, min(stop, first + context.n_batch))
        context.evaluate_embeddings(embedding.values[rows], positions[:, rows], seq=seq)
    return pos + embedding.n_pos
