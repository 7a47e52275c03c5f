"""Documents as tensors: rows of text filled with documents, and one row per image or clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import tokenizers
import torch
from make_checkpoint import Spec

from tiny_model import corpus, corpus_scenes
from tiny_model.corpus_scenes import COLOURS, SHAPES, Scene

READ_WEIGHT = 0.15  # of a token that the model only reads
PATCH, MERGE = 16, 2
KINDS = len(COLOURS) * len(SHAPES)


@dataclass(frozen=True)
class Batch:
    """One batch of rows.

    ids: (rows, n) int64. weights: (rows, n) float32, how much the loss at each token counts as a *target*.
    media: keyword arguments of the model; empty for text. probes: (image tokens of the rows,) int64 classes, or None.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    media: dict[str, torch.Tensor]
    probes: torch.Tensor | None = None


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Copy the tensors to where the network is."""
    media = {name: tensor.to(device) for name, tensor in batch.media.items()}
    probes = None if batch.probes is None else batch.probes.to(device)
    return Batch(batch.ids.to(device), batch.weights.to(device), media, probes)


def encode(tokenizer: tokenizers.Tokenizer, document: corpus.Document) -> tuple[list[int], list[float]]:
    """Tokenize a document as a whole, and weigh each token by the piece in which it begins."""
    text = "".join(piece.text for piece in document)
    encoded = tokenizer.encode(text, add_special_tokens=False)
    bounds = np.cumsum([len(piece.text) for piece in document])
    at = np.searchsorted(bounds, [start for start, _ in encoded.offsets], side="right")
    return encoded.ids, [1.0 if document[i].written else READ_WEIGHT for i in at]


def text_batch(
    r: Random, tokenizer: tokenizers.Tokenizer, prose: Sequence[str], rows: int, length: int, share: float = 0.08
) -> Batch:  # fmt: skip
    """Fill rows of `length` tokens with documents, of which this share is prose; the last one of a row is truncated."""
    ids, weights = np.zeros((rows, length), np.int64), np.zeros((rows, length), np.float32)
    for row in range(rows):
        row_ids: list[int] = []
        row_weights: list[float] = []
        while len(row_ids) < length:
            more_ids, more_weights = encode(tokenizer, corpus.document(r, prose, share))
            row_ids += more_ids
            row_weights += more_weights
        ids[row], weights[row] = row_ids[:length], row_weights[:length]
    weights[:, 0] = 0
    return Batch(torch.from_numpy(ids), torch.from_numpy(weights), {})


def patches(scene: Scene) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Split the frames into patches as Qwen2VLImageProcessor does: (patches, 1536) float32, and the grid (t, h, w).

    An image is used twice, as if it were two frames.
    """
    frames = np.stack([scene.frames[0], scene.frames[-1]]).astype(np.float32) / 127.5 - 1
    _, height, width, _ = frames.shape
    h, w = height // PATCH, width // PATCH
    x = frames.reshape(2, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH, 3)
    x = x.transpose(1, 4, 2, 5, 7, 0, 3, 6)  # block row, block column, row, column, channel, frame, pixel row, column
    return np.ascontiguousarray(x.reshape(h * w, -1)), (1, h, w)


def probe_classes() -> int:
    """Count the classes that the probe tells apart: nothing, each coloured shape, and each where it has moved to."""
    return 1 + 2 * KINDS


def _probes(scene: Scene) -> np.ndarray:
    kinds = [1 + list(COLOURS).index(thing.colour) * len(SHAPES) + SHAPES.index(thing.shape) for thing in scene.things]
    classes = np.array([0, *kinds])[scene.cells[0].ravel() + 1]
    if scene.moved_to is not None:
        ends = np.array([0, *kinds])[scene.cells[-1].ravel() + 1]
        classes = np.where(ends > 0, ends + KINDS, classes)
    return classes


def scene_batch(
    r: Random, spec: Spec, tokenizer: tokenizers.Tokenizer, scenes: Sequence[Scene]
) -> Batch:  # fmt: skip
    """Make one row for each scene, all images or all clips, padded on the right."""
    rows = [encode(tokenizer, corpus_scenes.rendered(r, scene)) for scene in scenes]
    length = max(len(ids) for ids, _ in rows)
    ids = np.full((len(rows), length), spec.token_id("<|endoftext|>"), np.int64)
    weights = np.zeros((len(rows), length), np.float32)
    for row, (row_ids, row_weights) in enumerate(rows):
        ids[row, : len(row_ids)], weights[row, : len(row_ids)] = row_ids, row_weights
    image, video = spec.token_id("<|image_pad|>"), spec.token_id("<|video_pad|>")
    weights[(ids == image) | (ids == video) | (ids == spec.token_id("<|vision_end|>"))] = 0
    weights[:, 0] = 0
    split = [patches(scene) for scene in scenes]
    pixels, grids = torch.from_numpy(np.concatenate([p for p, _ in split])), torch.tensor([g for _, g in split])
    kinds = torch.from_numpy((ids == image) * 1 + (ids == video) * 2)
    names = (
        ("pixel_values_videos", "video_grid_thw")
        if scenes[0].moved_to is not None
        else ("pixel_values", "image_grid_thw")
    )
    media = {names[0]: pixels, names[1]: grids, "mm_token_type_ids": kinds}
    probes = torch.from_numpy(np.concatenate([_probes(scene) for scene in scenes]))
    return Batch(torch.from_numpy(ids), torch.from_numpy(weights), media, probes)


def new_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Read tokenizer.json."""
    return tokenizers.Tokenizer.from_file(str(path))
