"""`qwen35 convert-adapter`: a PEFT LoRA as a GGUF file, which llama.cpp applies to a GGUF of the base.

Source: llama.cpp src/llama-adapter.cpp (the entries that it reads).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFValueType, LlamaFileType

from qwen35_gguf.architecture import Architecture, VisionEncoder
from qwen35_gguf.atomic_file import check_output
from qwen35_gguf.convert import hub
from qwen35_gguf.convert.adapters.adapter_folder import Adapter, open_adapter
from qwen35_gguf.convert.adapters.adapter_metadata import base_models, file_label, hub_id
from qwen35_gguf.convert.adapters.factors import gguf_factors
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.source_tensors.parts import Parts
from qwen35_gguf.convert.tensor_plan import plan_tensors
from qwen35_gguf.errors import AdapterError, OutputError
from qwen35_gguf.gguf_file.header import TensorInfo
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.gguf_file.writer import write_gguf
from qwen35_gguf.json_file import read_json
from qwen35_gguf.quant import kernels

Array = np.ndarray[Any, np.dtype[Any]]

TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
LORA_A, LORA_B = ".lora_a", ".lora_b"
BLOCK = 32  # of Q8_0


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter is for.

    Attributes:
        name: for the metadata.
        repo: its id on the Hub; "" for a local one.
        where: for messages.
        architecture: of its text model.
        encoder: its vision encoder; None without one.

    """

    name: str
    repo: str
    where: str
    architecture: Architecture
    encoder: VisionEncoder | None = None


def convert_adapter(
    adapter: str | Path,
    base: str | Path | None = None,
    out: str | Path | None = None,
    type_: str = "F32",
    *,
    revision: str | None = None,
    force: bool = False,
) -> Path:
    """Convert a PEFT LoRA to a GGUF LoRA.

    Args:
        adapter: a directory or a Hub id.
        base: the model that it is for: a directory, of which config.json suffices, a Hub id, or a GGUF file. By default
            the one that the adapter names.
        out: the file; by default in `models/`, named after the adapter.
        type_: F32, F16, BF16 or Q8_0.
        revision: of the base on the Hub.
        force: replace an existing file.

    Returns:
        The file.

    Raises:
        AdapterError: the adapter does not fit the base, or has what a GGUF LoRA cannot express.
        CheckpointError: the base is missing or not Qwen3.5.
        OutputError: the file exists already, or cannot be written.

    """
    wanted = type_.upper()
    if wanted not in TYPES:
        raise AdapterError(f"--type {type_}: unknown; choose one of {', '.join(TYPES)}")
    opened = open_adapter(adapter)
    if not base and not opened.config.base:
        raise AdapterError(f"{opened.config.where}: names no base_model_name_or_path; give the base with --base")
    model = describe_base(base or opened.config.base, revision)
    path = Path(out) if out is not None else Path("models")
    if out is None or path.is_dir():
        path /= f"{file_label([opened])}-{wanted}-LoRA.gguf"
    read = [Path(base)] if base is not None else []
    read += list(Path(adapter).iterdir()) if Path(adapter).is_dir() else []
    check_output(path, inputs=read, force=force)
    alpha, factors = gguf_factors(opened, model.architecture, model.encoder, model.where)
    tensors = []
    for one in factors:
        tensors += [_tensor(one.name + suffix, rows, wanted) for suffix, rows in ((LORA_A, one.a), (LORA_B, one.b))]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be made ({error.strerror}); choose another with -o") from None
    write_gguf(path, _metadata(opened, model, alpha, wanted), tensors, force=force)
    return path


def describe_base(base: str | Path, revision: str | None = None) -> BaseModel:
    """Read what a base is: of a directory or a Hub id its config.json, of a GGUF file its header.

    Where weights are beside config.json, their headers tell whether the embeddings are tied and what the MTP head is.

    Raises:
        CheckpointError: it is missing or not Qwen3.5.
        GgufError, ModelError: it is a GGUF file that cannot be read, or not of Qwen3.5.

    """
    path = Path(base).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        header = read_header(path)
        name = str(header.metadata.get("general.name") or path.stem)
        return BaseModel(name, "", str(path), Architecture.from_gguf(header.metadata, header.shapes, str(path)))
    if path.is_file() and path.name == "config.json":
        path = path.parent
    place = hub.resolve_files(str(path) if path.exists() else str(base), ["config.json"], revision)
    config = read_json(place.directory / "config.json").values
    where = str(place.directory / "config.json")
    encoder = VisionEncoder.from_config(config, where)
    if any(place.directory.glob("*.safetensors")):
        plan = plan_tensors(open_checkpoint(place.directory, Parts(vision=False)))
        architecture = plan.architecture
    else:
        architecture = Architecture.from_config(config, where)
    name = (place.repo or str(place.directory.resolve())).rpartition("/")[2]
    return BaseModel(name, place.repo or "", str(place.directory), architecture, encoder)


def _tensor(name: str, rows: Array, wanted: str) -> tuple[TensorInfo, Array]:
    """Store a factor; rows that Q8_0 cannot divide are F16."""
    type_ = GGMLQuantizationType[wanted]
    if type_ == GGMLQuantizationType.Q8_0 and rows.shape[-1] % BLOCK:
        type_ = GGMLQuantizationType.F16
    return TensorInfo(name, rows.shape, type_), kernels.quantize_rows(rows.reshape(-1, rows.shape[-1]), type_)


def _metadata(adapter: Adapter, model: BaseModel, alpha: float, wanted: str) -> Sequence[KeyValue]:
    text, number = GGUFValueType.STRING, GGUFValueType.UINT32
    repo = model.repo or hub_id(adapter.config.base)
    return [
        KeyValue.of("general.architecture", model.architecture.name, text),
        KeyValue.of("general.type", "adapter", text),
        KeyValue.of("general.name", adapter.name, text),
        *base_models([(model.name, repo, "")]),
        KeyValue.of("general.file_type", int(TYPES[wanted]), number),
        KeyValue.of("general.quantization_version", GGML_QUANT_VERSION, number),
        KeyValue.of("adapter.type", "lora", text),
        KeyValue.of("adapter.lora.alpha", alpha, GGUFValueType.FLOAT32),
    ]
