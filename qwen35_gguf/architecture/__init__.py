"""The hyper-parameters of a Qwen3.5 model: ONE description, read from config.json or from the metadata of a GGUF file.

Everything that depends on the shape of a model (the tensor map, the quantization presets, the memory plan, lint) reads
it here. Names follow config.json without `num_`. Sizes count elements unless they state otherwise.

Sources: transformers configuration_qwen3_5.py and configuration_qwen3_5_moe.py; llama.cpp src/models/qwen35.cpp and
qwen35moe.cpp (load_arch_hparams), tools/mtmd/clip.cpp.
"""

from qwen35_gguf.architecture.config import (
    DENSE,
    FULL,
    LINEAR,
    MOE,
    LayerKind,
    architecture_name,
    claims_tied,
    interval_of,
    layer_kinds,
    layer_kinds_of,
    text_config,
    text_section,
)
from qwen35_gguf.architecture.text_model import Architecture, Experts
from qwen35_gguf.architecture.vision import VisionEncoder

__all__ = [
    "DENSE",
    "FULL",
    "LINEAR",
    "MOE",
    "Architecture",
    "Experts",
    "LayerKind",
    "VisionEncoder",
    "architecture_name",
    "claims_tied",
    "interval_of",
    "layer_kinds",
    "layer_kinds_of",
    "text_config",
    "text_section",
]
