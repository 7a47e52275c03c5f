"""The same weights as others save them: experts one by one or in MLX's stacks, names of wrappers, FP8, shards."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from inputs import saved_tensors
from inputs.saved_tensors import Array, Tensors

Layout = Callable[[Path], object]
BLOCK = 128


def rewritten(change: Callable[[Tensors], Tensors]) -> Layout:
    """Return a layout that replaces the tensors of a folder's one file."""

    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        saved_tensors.write(path, change(saved_tensors.read(path)))

    return apply


def experts_one_by_one(tensors: Tensors, part: str = "") -> Tensors:
    """Save each expert's projections as tensors of their own, where the name has `part`."""
    found: Tensors = {}
    for name, array in tensors.items():
        stem, _, projection = name.rpartition(".experts.")
        if not stem or part not in name:
            found[name] = array
            continue
        for expert, matrix in enumerate(array):
            key = f"{stem}.experts.{expert}"
            if projection == "down_proj":
                found[f"{key}.down_proj.weight"] = matrix
            else:
                found[f"{key}.gate_proj.weight"], found[f"{key}.up_proj.weight"] = np.split(matrix, 2)
    return found


def switch_mlp(tensors: Tensors) -> Tensors:
    """Save the experts as MLX does: one stack for each projection."""
    found: Tensors = {}
    for name, array in tensors.items():
        stem, _, projection = name.rpartition(".experts.")
        if not stem:
            found[name] = array
        elif projection == "down_proj":
            found[f"{stem}.switch_mlp.down_proj.weight"] = array
        else:
            gate, up = np.split(array, 2, axis=1)
            found |= {f"{stem}.switch_mlp.gate_proj.weight": gate, f"{stem}.switch_mlp.up_proj.weight": up}
    return found


def as_mlx(tensors: Tensors) -> Tensors:
    """Save a text model as MLX does: its names, channels last, 1 added to the RMSNorm weights, no MTP head."""
    norms = re.compile(r"(input_layernorm|post_attention_layernorm|q_norm|k_norm|language_model\.norm)\.weight$")
    found: Tensors = {}
    for name, array in switch_mlp(tensors).items():
        if name.startswith(("mtp.", "model.visual.")):
            continue
        key = "language_model." + name.replace("model.language_model.", "model.")
        if "conv1d" in name:
            found[key] = np.moveaxis(array, 2, 1)
        else:
            found[key] = (array.astype(np.float32) + 1).astype(array.dtype) if norms.search(name) else array
    return found


def as_fp8(folder: Path) -> None:
    """Quantize the matrices of the feed-forward networks to FP8 in blocks, experts one by one."""

    def quantize(tensors: Tensors) -> Tensors:
        found: Tensors = {}
        for name, array in experts_one_by_one(tensors).items():
            if not re.search(r"layers\..*mlp\..*(gate|up|down)_proj\.weight$", name):
                found[name] = array
                continue
            weights, scales = _blocks(array)
            found |= {name: weights, f"{name}_scale_inv": scales}
        return found

    rewritten(quantize)(folder)
    config = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "fmt": "e4m3"}
    saved_tensors.edit_json(folder / "config.json", lambda c: c.update(quantization_config=config))


def _blocks(array: Array) -> tuple[Array, Array]:
    rows, columns = (size // BLOCK for size in array.shape)
    tiles = array.astype(np.float32).reshape(rows, BLOCK, columns, BLOCK)
    scales = np.abs(tiles).max(axis=(1, 3)) / 448
    quantized = (tiles / scales[:, None, :, None]).astype(ml_dtypes.float8_e4m3fn)
    return quantized.reshape(array.shape), scales.astype(np.float32)


def in_shards(folder: Path) -> None:
    """Spread the tensors over two shards, so that the experts of a layer are in both."""
    tensors = saved_tensors.read(folder / "model.safetensors")
    halves = [dict(list(tensors.items())[start::2]) for start in (0, 1)]
    saved_tensors.write_shards(folder, {f"model-0000{i}.safetensors": half for i, half in enumerate(halves)})


def one_by_one_in_shards(folder: Path) -> None:
    """Save experts one by one, those of a layer in two shards."""
    rewritten(experts_one_by_one)(folder)
    in_shards(folder)


def tied_twice(tensors: Tensors) -> Tensors:
    """Save the tied embedding as output matrix, too."""
    return tensors | {"lm_head.weight": tensors["model.language_model.embed_tokens.weight"]}


def wrapped(tensors: Tensors) -> Tensors:
    """Save from within wrappers."""
    return {f"module._orig_mod.{name}": array for name, array in tensors.items()}


EXPERTS: dict[str, Layout] = {
    "one by one": rewritten(experts_one_by_one),
    "one by one in the MTP head alone": rewritten(lambda tensors: experts_one_by_one(tensors, "mtp.")),
    "one by one in the main model alone": rewritten(lambda tensors: experts_one_by_one(tensors, "language_model.")),
    "switch_mlp": rewritten(switch_mlp),
    "one by one in shards": one_by_one_in_shards,
    "one by one, wrapped": rewritten(lambda tensors: wrapped(experts_one_by_one(tensors))),
}
DENSE: dict[str, Layout] = {
    "in shards": in_shards,
    "tied twice": rewritten(tied_twice),
    "wrapped": rewritten(wrapped),
}
