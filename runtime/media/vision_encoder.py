"""The vision tower: pictures into embeddings through mtmd, once each, and embeddings into a llama.cpp context.

How the parts fit together:

1. `content.collect` (content.py) turns the messages' pictures and videos into `Picture` and `Video` objects, in order.
2. The chat template is rendered; it writes `<|vision_start|><|image_pad|><|vision_end|>` for each picture and the same
   with `<|video_pad|>` for each video. `split_prompt(text, media)` cuts the text there: text, picture, text ...
   A video becomes a time, `<|vision_start|>`, a pair of frames, `<|vision_end|>`, and so on.
3. The caller tokenizes the texts one by one, special tokens parsed and no BOS. The cuts are at special tokens, so that
   the tokens are those of the whole text.
4. `Vision.embed(picture)` gives an `Embedding`. The same picture is encoded once (see `cache_bytes`).
5. `evaluate(ctx, [tokens, embedding, tokens, ...], n_past)` decodes them and returns the new `n_past`.

Positions: a picture of R x C tokens takes R * C cells of the context but only max(R, C) positions (M-RoPE): the next
text token is at `n_past + embedding.n_pos`, and `n_past` counts positions, not cells. Count cells against `n_ctx`.
In a prefix cache compare `Embedding.sha256` where tokens are compared.

Two frames of a pair are merged into one patch by mtmd itself: consecutive bitmaps that are marked mergeable.
"""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import MediaError, VisionError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.media.image import FACTOR, Picture, Pixels
from qwen35_gguf.runtime.media.video import FramePair, Video

IMAGE_PLACE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO_PLACE = "<|vision_start|><|video_pad|><|vision_end|>"
START, END = "<|vision_start|>", "<|vision_end|>"
PROJECTOR = "qwen3vl_merger"
SECTIONS = 4  # of M-RoPE in llama.cpp: time, row, column, and one that is not used
# mtmd resizes what is outside of its limits; ours are applied before, so that it never has to.
NO_LIMIT_TOKENS = 1 << 20
MESSAGES_KEPT = 20

FloatArray = npt.NDArray[np.float32]
Visual = Picture | FramePair


@dataclass(frozen=True, eq=False)
class Embedding:
    """One picture, or one pair of frames, as the text model takes it.

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
        """How many cells of the context it takes."""
        return self.rows * self.columns

    @property
    def n_pos(self) -> int:
        """How far it moves the position of what follows."""
        return max(self.rows, self.columns)


Chunk = Sequence[int] | Embedding


def n_cells(chunks: Sequence[Chunk]) -> int:
    """How many cells of the context the chunks take: to be compared with n_ctx."""
    return sum(chunk.n_tokens if isinstance(chunk, Embedding) else len(chunk) for chunk in chunks)


def n_positions(chunks: Sequence[Chunk]) -> int:
    """How far the chunks move the position."""
    return sum(chunk.n_pos if isinstance(chunk, Embedding) else len(chunk) for chunk in chunks)


def split_prompt(text: str, media: Sequence[Picture | Video]) -> list[str | Visual]:
    """Cut a rendered prompt at the places of its pictures and videos.

    Args:
        text: what the chat template gave, with `IMAGE_PLACE` and `VIDEO_PLACE` in it.
        media: the pictures and videos in the order of their places.

    Returns:
        Texts (none empty) and pictures or pairs of frames, in order. Source of a video's form: `replace_video_token`
        of transformers' processing_qwen3_vl, which is given the bare `<|video_pad|>` between the two other tokens;
        here these are part of the place and not written a second time, as in the processor that Qwen published.

    Raises:
        MediaError: the places in the text are not those of `media`; a text may itself contain the special tokens.

    """
    parts: list[str | Visual] = []
    written = ""
    rest = text
    for item in media:
        place = IMAGE_PLACE if isinstance(item, Picture) else VIDEO_PLACE
        before, found, rest = rest.partition(place)
        if not found or IMAGE_PLACE in before or VIDEO_PLACE in before:
            raise MediaError(_misplaced(text, media))
        written += before
        if isinstance(item, Picture):
            parts += [written + START, item]
            written = END
            continue
        for pair in item.pairs:
            parts += [written + pair.label + START, pair]
            written = END
    if IMAGE_PLACE in rest or VIDEO_PLACE in rest:
        raise MediaError(_misplaced(text, media))
    return [*parts, written + rest] if written + rest else parts


def _misplaced(text: str, media: Sequence[Picture | Video]) -> str:
    places = text.count(IMAGE_PLACE) + text.count(VIDEO_PLACE)
    return (
        f"prompt: {places} places for pictures and videos, {len(media)} given, or in another order; "
        "a message's text may not contain <|image_pad|> or <|video_pad|>"
    )


class Vision:
    """A loaded vision tower (mmproj) and a cache of what it has seen. Use as a context manager, or call `close`."""

    def __init__(
        self, mmproj: Path, model: Any, *, n_threads: int = 4, use_gpu: bool = False, cache_bytes: int = 256 << 20
    ) -> None:
        """Load a vision tower for a text model.

        Args:
            mmproj: the GGUF of the vision tower.
            model: the loaded text model (`llama_model_p` of llama_cpp); it has to outlive this object.
            n_threads: for encoding.
            use_gpu: encode on the GPU.
            cache_bytes: of embeddings kept, the least recently used go first. 1,000 tokens of the 9B take 16 MB.

        Raises:
            VisionError: the file is missing, damaged, not a vision tower of Qwen3.5, or one of another model.

        """
        import llama_cpp
        from llama_cpp import mtmd_cpp as mtmd

        self._mtmd = mtmd
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, Embedding] = OrderedDict()
        self._cache_bytes, self._cached_bytes = cache_bytes, 0
        self._context: Any = None
        self.encoded = 0  # pictures that the tower has been run on
        self.n_embd = int(llama_cpp.llama_model_n_embd(model))
        check_mmproj(mmproj, self.n_embd)

        silence()
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.print_timings, params.warmup = use_gpu, n_threads, False, False
        params.image_min_tokens, params.image_max_tokens = 1, NO_LIMIT_TOKENS
        _messages.clear()
        self._context = mtmd.mtmd_init_from_file(str(mmproj).encode(), model, params)
        if not self._context or not mtmd.mtmd_support_vision(self._context):
            reason = _messages[-1] if _messages else "no reason given"
            self.close()
            raise VisionError(f"{mmproj}: cannot be loaded ({reason}); convert or download it again")

    def __enter__(self) -> Vision:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the tower and the cache; a second call does nothing."""
        with self._lock:
            if self._context:
                self._mtmd.mtmd_free(self._context)
            self._context = None
            self._cache.clear()
            self._cached_bytes = 0

    def embed(self, visual: Visual) -> Embedding:
        """Encode a picture or a pair of frames, or take it from the cache.

        Raises:
            VisionError: the tower is closed, or fails.

        """
        with self._lock:
            if not self._context:
                raise VisionError("vision tower: it has been closed; load the model again")
            known = self._cache.get(visual.sha256)
            if known is not None:
                self._cache.move_to_end(visual.sha256)
                return known
            frames = [visual.rgb] if isinstance(visual, Picture) else [visual.first, visual.second]
            values = self._encode(frames)
            self.encoded += 1
            height, width, _ = frames[0].shape
            embedding = Embedding(values, height // FACTOR, width // FACTOR, visual.sha256)
            if embedding.n_tokens != len(values):
                found = f"{len(values)} tokens for {embedding.rows} x {embedding.columns}"
                raise VisionError(f"vision tower: it made {found}; convert or download the mmproj again")
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

    def _encode(self, frames: list[Pixels]) -> FloatArray:
        """Run the tower on one picture, or on two frames that are merged: (tokens, n_embd)."""
        mtmd = self._mtmd
        marker = mtmd.mtmd_default_marker() * len(frames)
        text = mtmd.mtmd_input_text()
        text.text, text.text_len, text.add_special, text.parse_special = marker, len(marker), False, True
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * len(frames))()
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            for i, rgb in enumerate(frames):
                pixels = np.ascontiguousarray(rgb)  # mtmd copies it
                pointer = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
                bitmaps[i] = mtmd.mtmd_bitmap_init(rgb.shape[1], rgb.shape[0], pointer)
                mtmd.mtmd_bitmap_set_mergeable(bitmaps[i], len(frames) > 1)
            if mtmd.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, len(frames)) != 0:
                raise VisionError(
                    f"vision tower: it does not take {rgb.shape[1]} x {rgb.shape[0]} pixels; use another size"
                )
            found = [mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks))]
            images = [c for c in found if mtmd.mtmd_input_chunk_get_type(c) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE]
            if len(images) != 1 or mtmd.mtmd_encode_chunk(self._context, images[0]) != 0:
                raise VisionError("vision tower: encoding failed; use a smaller picture")
            shape = (mtmd.mtmd_input_chunk_get_n_tokens(images[0]), self.n_embd)
            values: FloatArray = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self._context), shape).copy()
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                if bitmap:
                    mtmd.mtmd_bitmap_free(bitmap)
        values.setflags(write=False)
        return values


def check_mmproj(mmproj: Path, n_embd: int) -> None:
    """Check, from the header alone, that a file is the vision tower of a Qwen3.5 of this width.

    Raises:
        VisionError: it is not.

    """
    try:
        header = read_header(mmproj)
    except Exception as error:
        raise VisionError(str(error)) from None
    if header.architecture != "clip" or not header.value("clip.has_vision_encoder"):
        raise VisionError(f"{mmproj}: is not a vision tower but {header.architecture}; name the file mmproj-*.gguf")
    kind = header.value("clip.vision.projector_type") or header.value("clip.projector_type")
    if kind != PROJECTOR:
        raise VisionError(f"{mmproj}: a vision tower of another family ({kind}); use the one of this model")
    width = header.value("clip.vision.projection_dim")
    if width != n_embd:
        message = f"it makes embeddings of {width}, the text model takes {n_embd}"
        raise VisionError(f"{mmproj}: belongs to another model ({message}); use the one of this model")


# ---- decoding ----------------------------------------------------------------------------------------------------


def evaluate(
    ctx: Any, chunks: Sequence[Chunk], n_past: int, *, seq_id: int = 0, n_batch: int = 512, logits_last: bool = True
) -> int:
    """Decode texts and pictures one after the other, for one sequence, and return the new `n_past`.

    Args:
        ctx: the context (`llama_context_p` of llama_cpp) of the model that the embeddings were made for.
        chunks: token ids, or embeddings.
        n_past: the position of the first, which is what the call before returned (0 at the start).
        seq_id: the sequence.
        n_batch: tokens a call of `llama_decode`, at most the context's own n_batch.
        logits_last: compute logits of the very last token; read them with `llama_get_logits_ith(ctx, -1)`.

    Raises:
        VisionError: llama.cpp cannot decode; most often the context is full (count with `n_cells`).

    """
    filled = [chunk for chunk in chunks if isinstance(chunk, Embedding) or len(chunk)]
    for i, chunk in enumerate(filled):
        last = logits_last and i == len(filled) - 1
        decode = decode_picture if isinstance(chunk, Embedding) else decode_text
        n_past = decode(ctx, chunk, n_past, seq_id=seq_id, n_batch=n_batch, logits_last=last)  # type: ignore[arg-type]
    return n_past


def decode_text(
    ctx: Any, tokens: Sequence[int], n_past: int, *, seq_id: int = 0, n_batch: int = 512, logits_last: bool = True
) -> int:
    """Decode token ids at positions n_past, n_past + 1, ... and return the next one; see `evaluate`."""
    import llama_cpp

    ids = np.asarray(tokens, dtype=np.int32)
    for start in range(0, len(ids), n_batch):
        part = np.ascontiguousarray(ids[start : start + n_batch])
        positions = np.arange(n_past, n_past + len(part), dtype=np.int32)
        last = logits_last and start + len(part) == len(ids)
        with _Arrays(positions, len(part), seq_id, last) as batch:
            batch.token = part.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token))
            _decode(ctx, batch)
        n_past += len(part)
    return n_past


def decode_picture(
    ctx: Any, embedding: Embedding, n_past: int, *, seq_id: int = 0, n_batch: int = 512, logits_last: bool = False
) -> int:
    """Decode a picture at position n_past and return the position of what follows; see `evaluate`."""
    row, column = np.divmod(np.arange(embedding.n_tokens, dtype=np.int32), np.int32(embedding.columns))
    time = np.zeros_like(row)
    positions = np.stack([time + n_past, row + n_past, column + n_past, time])
    for start in range(0, embedding.n_tokens, n_batch):
        part = np.ascontiguousarray(embedding.values[start : start + n_batch])
        last = logits_last and start + len(part) == embedding.n_tokens
        with _Arrays(positions[:, start : start + n_batch], len(part), seq_id, last) as batch:
            batch.embd = part.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            _decode(ctx, batch)
    return n_past + embedding.n_pos


class _Arrays:
    """A `llama_batch` over arrays that live as long as this object."""

    def __init__(self, positions: npt.NDArray[np.int32], count: int, seq_id: int, last: bool) -> None:
        self._positions = np.ascontiguousarray(positions, dtype=np.int32)
        self._sequence = ctypes.c_int32(seq_id)
        self._sequences = (ctypes.POINTER(ctypes.c_int32) * count)(*[ctypes.pointer(self._sequence)] * count)
        self._counts = (ctypes.c_int32 * count)(*[1] * count)
        self._logits = (ctypes.c_int8 * count)()
        self._logits[count - 1] = last
        self._batch = _empty_batch()
        self._batch.n_tokens = count
        self._batch.pos = self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self._batch.n_seq_id = self._counts
        self._batch.seq_id = self._sequences
        self._batch.logits = self._logits

    def __enter__(self) -> Any:
        return self._batch

    def __exit__(self, *_: object) -> None:
        """Nothing is to be freed: the arrays are Python's."""


def _empty_batch() -> Any:
    import llama_cpp

    return llama_cpp.llama_batch()


def _decode(ctx: Any, batch: Any) -> None:
    import llama_cpp

    result = llama_cpp.llama_decode(ctx, batch)
    if result != 0:
        why = "the context is full; raise n_ctx" if result == 1 else f"llama_decode returned {result}"
        raise VisionError(f"prompt: cannot be decoded ({why})")


# ---- mtmd's messages ---------------------------------------------------------------------------------------------

_messages: list[str] = []
_callback: Any = None


def silence() -> None:
    """Keep mtmd's messages off the terminal; the last ones are kept for error texts."""
    global _callback
    if _callback is not None:
        return
    import llama_cpp
    from llama_cpp import mtmd_cpp as mtmd

    def log(level: int, text: bytes, _: Any) -> None:
        del level
        line = text.decode("utf-8", errors="replace").strip()
        if line:
            _messages.append(line)
            del _messages[:-MESSAGES_KEPT]

    _callback = llama_cpp.llama_log_callback(log)  # has to live as long as the library
    mtmd.mtmd_log_set(_callback, None)
