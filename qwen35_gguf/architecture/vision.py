"""The vision encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.architecture.config import LAYERS, MOST_LAYERS, Config
from qwen35_gguf.architecture.metadata import GgufReader
from qwen35_gguf.errors import ModelError
from qwen35_gguf.json_file import SIZE, JsonObject


@dataclass(frozen=True)
class VisionEncoder:
    """The vision encoder and its projector, which are stored in the mmproj file.

    Attributes:
        depth: blocks.
        hidden_size: width of the blocks.
        intermediate_size: width of the feed-forward networks.
        heads: attention heads; hidden_size / heads is the size of one.
        out_hidden_size: width of what the projector returns: the text model's hidden_size.
        patch_size: side of a square patch, in pixels.
        temporal_patch_size: frames that one patch covers.
        spatial_merge_size: patches per side that the projector merges into one token.
        position_embeddings: learned positions, a square grid.
        in_channels: color channels of a pixel.

    """

    depth: int
    hidden_size: int
    intermediate_size: int
    heads: int
    out_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    position_embeddings: int
    in_channels: int = 3

    @property
    def merged_size(self) -> int:
        """Width of the projector's input: the patches of one token, side by side."""
        return self.hidden_size * self.spatial_merge_size**2

    @property
    def grid_size(self) -> int:
        """Learned positions per side of the grid."""
        return math.isqrt(self.position_embeddings)

    @classmethod
    def from_config(cls, config: Config, where: str = "config.json") -> VisionEncoder | None:
        """Read `vision_config` of a parsed config.json; None if there is none.

        Raises:
            CheckpointError: an entry is missing or not a size.

        """
        whole = JsonObject(config, where)
        if "vision_config" not in whole:
            return None
        read = whole.section("vision_config")
        positions = read.need("num_position_embeddings", SIZE)
        if math.isqrt(positions) ** 2 != positions:
            raise read.mistake("num_position_embeddings", "the square of a number: a grid of positions")
        return cls(
            depth=read.need("depth", LAYERS),
            hidden_size=read.need("hidden_size", SIZE),
            intermediate_size=read.need("intermediate_size", SIZE),
            heads=read.need("num_heads", SIZE),
            out_hidden_size=read.need("out_hidden_size", SIZE),
            patch_size=read.need("patch_size", SIZE),
            temporal_patch_size=read.need("temporal_patch_size", SIZE),
            spatial_merge_size=read.need("spatial_merge_size", SIZE),
            position_embeddings=positions,
            in_channels=read.get("in_channels", SIZE, 3),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], where: str = "the mmproj file") -> VisionEncoder:
        """Read the metadata of an mmproj file, whose `general.architecture` is clip.

        Raises:
            ModelError: it is not an mmproj file, or an entry is missing or not a size.

        """
        if metadata.get("general.architecture") != "clip":
            raise ModelError(f"{where}: is not an mmproj file; name the file that was converted with the model")
        read = GgufReader(metadata, where, "clip.vision.")
        patch = read.size("patch_size")
        return cls(
            depth=read.size("block_count", MOST_LAYERS),
            hidden_size=read.size("embedding_length"),
            intermediate_size=read.size("feed_forward_length"),
            heads=read.size("attention.head_count"),
            out_hidden_size=read.size("projection_dim"),
            patch_size=patch,
            temporal_patch_size=2,  # of every Qwen3.5; the format has no key for it
            spatial_merge_size=read.count("spatial_merge_size", 2) or 2,
            position_embeddings=(read.size("image_size") // patch) ** 2,
        )
