"""Which method of quantization a checkpoint was saved with, and its settings: config.json, or ModelOpt's own file.

Keys as the libraries write them: transformers (utils/quantization_config.py), compressed-tensors (quantization/
quant_config.py), ModelOpt (torch/export/convert_hf_config.py), GPTQModel (quantization/config.py), mlx-lm (utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qwen35_gguf.convert.dequantize import formats
from qwen35_gguf.convert.dequantize.settings import Method, Settings
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.json_file import FLAG, OBJECT, SIZE, TEXT, JsonObject, at_most, either, list_of, read_json

WHOLE = at_most(1 << 30, -1)  # -1 stands for a whole row
MODELOPT_FILE = "hf_quant_config.json"
# Where config.json may have it: compressed-tensors' older key, and the text model's part, come last.
KEYS = ("quantization_config", "compression_config")
FP8_BLOCK = (128, 128)
MLX_MODES = ("affine", "mxfp4", "nvfp4")
# Names that other versions and tools write for the same thing.
ALIASES = {
    "compressed_tensors": formats.COMPRESSED,
    "sparseml": formats.COMPRESSED,
    "modelopt_fp4": formats.MODELOPT,
    "modelopt_fp8": formats.MODELOPT,
    "gptqmodel": formats.GPTQ,
    "bitsandbytes_4bit": formats.BITSANDBYTES,
    "bitsandbytes_8bit": formats.BITSANDBYTES,
    "bnb": formats.BITSANDBYTES,
}
# What the layouts that GPTQ's and AWQ's libraries write are called; others are made for one kind of GPU.
GPTQ_LAYOUTS = {"gptq": 1, "gptq_v2": 0}
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
AWQ_LAYOUTS = ("gemm", "gemv", "exllama", "ipex")


def find_method(config: Mapping[str, Any], directory: Path) -> Method | None:
    """Return the method that the weights are quantized with; None for plain weights.

    Raises:
        CheckpointError: the method is unknown, or its settings cannot be used.

    """
    found = _section(config, directory)
    if found is None:
        return None
    name = found.get("quant_method", TEXT)
    if name is None:
        name = _unnamed(found)
    name = ALIASES.get(name.lower(), name.lower())
    if name not in READERS:
        known = ", ".join(READERS)
        here = not found.where.endswith(MODELOPT_FILE)
        plain = f"; if the weights are plain, convert with --ignore-config {found.path}" if here else ""
        raise CheckpointError(
            f"{found.where}: the weights are quantized with {name}, which is not read ({known} are); convert the "
            f"original BF16 checkpoint instead{plain}"
        )
    return READERS[name](found)


def _section(config: Mapping[str, Any], directory: Path) -> JsonObject | None:
    """Find the description: in config.json, in its text model's part, or in the file that ModelOpt writes."""
    whole = JsonObject(config, str(directory / "config.json"))
    for holder in (whole, whole.section("text_config")):
        for key in KEYS:
            if holder.get(key, OBJECT):
                return holder.section(key)
    own = read_json(directory / MODELOPT_FILE, optional=True)
    if own.get("quantization", OBJECT):
        return own.section("quantization")
    return whole.section("quantization") if whole.get("quantization", OBJECT) else None


def _unnamed(section: JsonObject) -> str:
    """Tell the method of a description without a name, by keys that only one method has."""
    if section.path == "quantization" and not section.where.endswith(MODELOPT_FILE):
        return formats.MLX
    if "quant_algo" in section or section.where.endswith(MODELOPT_FILE):
        return formats.MODELOPT
    if "config_groups" in section:
        return formats.COMPRESSED
    if "group_size" in section and "bits" in section:
        return formats.MLX
    if "load_in_4bit" in section or "load_in_8bit" in section:
        return formats.BITSANDBYTES
    if "weight_block_size" in section:
        return formats.FP8
    raise CheckpointError(
        f"{section.where}: {section.path} has no quant_method; restore it, or convert the original BF16 checkpoint"
    )


def _where(section: JsonObject) -> str:
    return f"{Path(section.where).name}: {section.path}"


def _texts(section: JsonObject, *keys: str) -> tuple[str, ...]:
    return tuple(text for key in keys for text in section.get(key, list_of(TEXT)) or ())


def _weights(section: JsonObject) -> Iterator[JsonObject]:
    """Yield the descriptions of weights of all config groups; a group may be the name of a preset with its targets."""
    groups = section.section("config_groups")
    for name, group in groups.values.items():
        if isinstance(group, dict):
            inner = groups.section(name)
            if inner.get("weights", OBJECT):
                yield inner.section("weights")


def _compressed(section: JsonObject) -> Method:
    groups = list(_weights(section))
    sizes = [size for group in groups if (size := group.get("group_size", WHOLE)) is not None]
    blocks = [_pair(group, "block_structure") for group in groups]
    symmetric = {group.get("symmetric", FLAG, True) for group in groups}
    settings = Settings(
        _where(section),
        bits=frozenset(bits for group in groups if (bits := group.get("num_bits", SIZE))),
        group_sizes=frozenset(sizes),
        blocks=(*(block for block in blocks if block), FP8_BLOCK),
        symmetric=symmetric.pop() if len(symmetric) == 1 else None,
    )
    return Method(formats.COMPRESSED, settings, excluded=_texts(section, "ignore"))


def _modelopt(section: JsonObject) -> Method:
    settings = Settings(_where(section), blocks=(FP8_BLOCK,))
    return Method(formats.MODELOPT, settings, excluded=_texts(section, "ignore", "exclude_modules"))


def _fp8(section: JsonObject) -> Method:
    settings = Settings(_where(section), blocks=(_pair(section, "weight_block_size") or FP8_BLOCK,))
    return Method(formats.FP8, settings, excluded=_texts(section, "modules_to_not_convert", "ignored_layers"))


def _plain(name: str) -> Callable[[JsonObject], Method]:
    def read(section: JsonObject) -> Method:
        excluded = _texts(section, "modules_to_not_convert", "llm_int8_skip_modules")
        return Method(name, Settings(_where(section)), excluded=excluded)

    return read


def _gptq(section: JsonObject) -> Method:
    layout = section.get("checkpoint_format", TEXT) or section.get("format", TEXT) or "gptq"
    if layout not in GPTQ_LAYOUTS:
        raise section.mistake("checkpoint_format", f"one of {', '.join(GPTQ_LAYOUTS)}, which can be read")
    dynamic = section.get("dynamic", OBJECT) or {}
    inner = section.section("dynamic")
    rules = [inner.section(rule) for rule, values in dynamic.items() if isinstance(values, dict)]
    described = [section, *rules]
    settings = Settings(
        _where(section),
        bits=frozenset(bits for one in described if (bits := one.get("bits", SIZE))),
        group_sizes=frozenset(size for one in described if (size := one.get("group_size", WHOLE)) is not None),
        symmetric=section.get("sym", FLAG),
        zero_offset=GPTQ_LAYOUTS[layout],
    )
    excluded = tuple(f"re:{rule[2:]}" for rule in dynamic if rule.startswith("-:"))
    return Method(formats.GPTQ, settings, excluded=excluded)


def _auto_round(section: JsonObject) -> Method:
    """Read what AutoRound writes in the layouts of GPTQ or AWQ; its own layouts are others."""
    layout = section.get("packing_format", TEXT) or ""
    if layout not in AUTO_ROUND_LAYOUTS:
        raise section.mistake("packing_format", f"one of {', '.join(AUTO_ROUND_LAYOUTS)}, which can be read")
    return AUTO_ROUND_LAYOUTS[layout](section)


def _awq(section: JsonObject) -> Method:
    key = "version" if "version" in section else "format"
    layout = (section.get(key, TEXT) or "gemm").lower()
    if layout not in AWQ_LAYOUTS:
        raise section.mistake(key, f"one of {', '.join(AWQ_LAYOUTS)}, which can be read")
    size = section.get("group_size", WHOLE) or section.get("q_group_size", WHOLE)
    bits = section.get("bits", SIZE) or section.get("w_bit", SIZE)
    settings = Settings(
        _where(section),
        bits=frozenset([bits] if bits else []),
        group_sizes=frozenset([size] if size else []),
        row_packed=layout == "gemv",
    )
    return Method(formats.AWQ, settings, excluded=_texts(section, "modules_to_not_convert"))


def _mlx(section: JsonObject) -> Method:
    settings = _mlx_settings(section, Settings(_where(section)))
    overrides = {
        name: _mlx_settings(section.section(name), settings)
        for name, values in section.values.items()
        if isinstance(values, dict)
    }
    excluded = tuple(name for name, values in section.values.items() if values is False)
    return Method(formats.MLX, settings, overrides, excluded)


def _mlx_settings(section: JsonObject, default: Settings) -> Settings:
    mode = section.get("mode", TEXT) or default.mode
    if mode not in MLX_MODES:
        raise section.mistake("mode", f"one of {', '.join(MLX_MODES)}, which can be read")
    size, bits = section.get("group_size", SIZE), section.get("bits", SIZE)
    return Settings(
        default.where,
        bits=frozenset([bits]) if bits else default.bits,
        group_sizes=frozenset([size]) if size else default.group_sizes,
        mode=mode,
    )


def _pair(section: JsonObject, key: str) -> tuple[int, int] | None:
    """Return the rows and columns of a block: [128, 128], or "128x128" in older files."""
    found = section.get(key, either(list_of(SIZE), TEXT))
    if found is None:
        return None
    if isinstance(found, str):
        found = [int(part) for part in found.split("x") if _NUMBER.fullmatch(part)]
    if len(found) != 2:
        raise section.mistake(key, "rows and columns of a block")
    return found[0], found[1]


AUTO_ROUND_LAYOUTS: dict[str, Callable[[JsonObject], Method]] = {
    "auto_round:auto_gptq": _gptq,
    "auto_round:auto_awq": _awq,
}
READERS: dict[str, Callable[[JsonObject], Method]] = {
    formats.COMPRESSED: _compressed,
    formats.MODELOPT: _modelopt,
    formats.FP8: _fp8,
    formats.FBGEMM: _plain(formats.FBGEMM),
    formats.GPTQ: _gptq,
    formats.AWQ: _awq,
    "auto-round": _auto_round,
    formats.BITSANDBYTES: _plain(formats.BITSANDBYTES),
    formats.MXFP4: _plain(formats.MXFP4),
    formats.MLX: _mlx,
}
