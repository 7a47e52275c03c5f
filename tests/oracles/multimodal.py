"""Logits of transformers for prompts with images and videos, prepared by transformers' own processor."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.video_utils import VideoMetadata


def video_processing() -> ModuleType:
    """The module of Qwen3VLVideoProcessor. It asks for torchvision, of which only resizing and rescaling are used."""
    name = "transformers.models.qwen3_vl._video_processing"
    if name not in sys.modules:
        path = Path(transformers.__file__).parent / "models" / "qwen3_vl" / "video_processing_qwen3_vl.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def processor(source: Path) -> Any:
    """Make the Qwen3VLProcessor of a checkpoint, with Pillow in place of torchvision."""
    # The constructor checks that the video processor is a class of the list that torchvision hides.
    made = object.__new__(transformers.Qwen3VLProcessor)
    made.image_processor = Qwen2VLImageProcessorPil.from_pretrained(source)
    made.video_processor = video_processing().Qwen3VLVideoProcessor.from_pretrained(source)
    made.tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    made.chat_template = (source / "chat_template.jinja").read_text()
    for kind in ("image", "video"):
        token = f"<|{kind}_pad|>"
        setattr(made, f"{kind}_token", token)
        setattr(made, f"{kind}_token_id", made.tokenizer.convert_tokens_to_ids(token))
    made.vision_start_token, made.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    return made


def normalized(frames: Any) -> torch.Tensor:
    """(frames, height, width, 3) uint8 -> (frames, 3, height, width) float32: rescaled and normalized."""
    return torch.from_numpy((np.asarray(frames).astype(np.float32) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def logits(source: Path, inputs: Any) -> np.ndarray:  # type: ignore[type-arg]
    """Logits of every token, (tokens, vocab) float32."""
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    return model(**inputs).logits[0].numpy()


def metadata(frames: int, fps: float) -> VideoMetadata:
    """What transformers knows of a video beside its frames."""
    return VideoMetadata(total_num_frames=frames, fps=fps, duration=frames / fps)


def sampled(frames: int, fps: float) -> list[int]:
    """Which frames of a video transformers looks at, by its defaults."""
    chosen = video_processing().Qwen3VLVideoProcessor().sample_frames(metadata(frames, fps))
    return [int(index) for index in chosen]
