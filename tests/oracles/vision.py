"""Image embeddings: of mtmd, the system under test, and of transformers' vision model on patches made here."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from llama_cpp import mtmd_cpp as mtmd

from oracles import llama

Image = Any  # (height, width, 3) uint8


def image(width: int, height: int, seed: int) -> Image:
    """Draw a gradient with a few rectangles."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin((x + y) / 9)], -1)
    for _ in range(5):
        top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
        image[top : top + rng.integers(8, height), left : left + rng.integers(8, width)] = rng.integers(0, 256, 3)
    return np.ascontiguousarray(image.astype(np.uint8))


@torch.no_grad()
def reference(source: Path, images: list[Image]) -> list[Any]:
    """Embed images with transformers in float32: each (tokens, hidden)."""
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    config = model.config.vision_config
    patch, merge, frames = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    result = []
    for image in images:
        rows, columns = image.shape[0] // patch, image.shape[1] // patch
        pixels = (image.astype(np.float32) / 255 - 0.5) / 0.5
        split = pixels.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
        patches = split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3, 1, patch, patch)
        still = np.repeat(patches, frames, axis=2).reshape(rows * columns, -1)
        grid = torch.tensor([[1, rows, columns]])
        result.append(model.model.visual(torch.from_numpy(still), grid_thw=grid).pooler_output.numpy())
    return result


def embeddings(gguf: Path, mmproj: Path, images: list[Image]) -> list[Any]:
    """Embed images with mtmd: each (tokens, hidden) float32."""
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.warmup, params.print_timings, params.n_threads, params.flash_attn_type = (
        False,
        False,
        False,
        2,
        0,
    )
    result = []
    with llama.loaded(gguf) as model:
        ctx = mtmd.mtmd_init_from_file(str(mmproj).encode(), model, params)
        assert ctx, f"mtmd cannot load {mmproj}"
        for image in images:
            result.append(_embed(ctx, model, image))
        mtmd.mtmd_free(ctx)
    return result


def _embed(ctx: Any, model: Any, image: Image) -> Any:
    from llama_cpp import llama_model_n_embd

    height, width, _ = image.shape
    bitmap = mtmd.mtmd_bitmap_init(width, height, image.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
    chunks = mtmd.mtmd_input_chunks_init()
    text = mtmd.mtmd_input_text()
    text.text = mtmd.mtmd_default_marker()
    text.text_len = len(mtmd.mtmd_default_marker())
    text.add_special, text.parse_special = False, True
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    try:
        assert mtmd.mtmd_tokenize(ctx, chunks, ctypes.byref(text), bitmaps, 1) == 0
        for i in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, i)
            if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                assert mtmd.mtmd_encode_chunk(ctx, chunk) == 0
                shape = (mtmd.mtmd_input_chunk_get_n_tokens(chunk), llama_model_n_embd(model))
                return np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(ctx), shape).copy()
        raise AssertionError("mtmd made no image chunk")
    finally:
        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_bitmap_free(bitmap)
