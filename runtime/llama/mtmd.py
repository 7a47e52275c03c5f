"""llama.cpp's vision encoder (mtmd): pixels in, embeddings out."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf import address_space
from qwen35_gguf.errors import VisionError
from qwen35_gguf.runtime.llama.batch import FloatArray
from qwen35_gguf.runtime.llama.handle import Handle
from qwen35_gguf.runtime.llama.library import Closing, clear_messages, mtmd_library, reason
from qwen35_gguf.runtime.llama.model import Model

# mtmd resizes what is outside of its limits; ours are applied before, so that it never does.
NO_LIMIT_TOKENS = 1 << 20
VISION_NODES = 8192  # of the largest graph (llama.cpp tools/mtmd/clip.cpp, max_nodes)


class VisionContext(Closing):
    """A loaded vision encoder (mmproj).

    Attributes:
        n_embd: width of an embedding.

    """

    def __init__(self, mmproj: Path, model: Model, *, n_threads: int, use_gpu: bool = False) -> None:
        """Load a vision encoder for a text model.

        Args:
            mmproj: the GGUF of the vision encoder.
            model: must outlive it.
            n_threads: for encoding.
            use_gpu: encode on the GPU.

        Raises:
            VisionError: llama.cpp cannot load it; its reason is given.
            MemoryLimitError: there is a limit of the address space, and it does not fit.

        """
        self._mtmd = mtmd = mtmd_library()
        self.n_embd = model.n_embd
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.print_timings, params.warmup = use_gpu, n_threads, False, False
        params.image_min_tokens, params.image_max_tokens = 1, NO_LIMIT_TOKENS
        if address_space.limit() is not None:
            size = mmproj.stat().st_size if mmproj.exists() else 0
            address_space.require(size + VISION_NODES * address_space.NODE_BYTES, str(mmproj), n_threads)
        clear_messages()
        pointer = mtmd.mtmd_init_from_file(os.fsencode(mmproj), model.pointer, params)
        if pointer and not mtmd.mtmd_support_vision(pointer):
            mtmd.mtmd_free(pointer)
            pointer = None
        if not pointer:
            raise VisionError(f"{mmproj}: cannot be loaded ({reason()}); convert or download it again")
        self.handle = Handle(self, pointer, mtmd.mtmd_free, model.handle)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        self.handle.close()

    def encode(self, frames: Sequence[npt.NDArray[np.uint8]]) -> FloatArray:
        """Encode one image, or two frames that are merged into one: (tokens, n_embd) float32.

        Consecutive bitmaps that are marked mergeable become one patch in time.

        Args:
            frames: (height, width, 3) uint8 each, both sides multiples of 32.

        Raises:
            VisionError: llama.cpp refuses the size, or fails.

        """
        with self.handle.in_use() as pointer:
            return self._encode(pointer, frames)

    def _encode(self, context: Any, frames: Sequence[npt.NDArray[np.uint8]]) -> FloatArray:
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
            if mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, len(frames)) != 0:
                size = f"{frames[0].shape[1]} x {frames[0].shape[0]}"
                raise VisionError(f"vision encoder: does not take {size} pixels; use another size")
            found = [mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks))]
            images = [c for c in found if mtmd.mtmd_input_chunk_get_type(c) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE]
            if len(images) != 1 or mtmd.mtmd_encode_chunk(context, images[0]) != 0:
                raise VisionError("vision encoder: encoding failed; use a smaller image")
            shape = (mtmd.mtmd_input_chunk_get_n_tokens(images[0]), self.n_embd)
            values: FloatArray = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(context), shape).copy()
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                if bitmap:
                    mtmd.mtmd_bitmap_free(bitmap)
        values.setflags(write=False)
        return values
