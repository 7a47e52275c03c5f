"""JSON files: those of checkpoints and adapters, records of releases, profiles, costs."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any
from unittest import mock

from fuzz.target import Target, as_file, as_text, scratch
from oracles.paths import ROOT
from qwen35_gguf.convert.adapters import adapter_config
from qwen35_gguf.convert.plan_files import ConversionOptions, plan_conversion
from qwen35_gguf.convert.source_tensors import weight_files
from qwen35_gguf.convert.source_tensors.parts import ALL, Parts
from qwen35_gguf.errors import PackageError
from qwen35_gguf.inner_path import can_be_stored, is_inside
from qwen35_gguf.json_file import parse_json
from qwen35_gguf.quant.search import costs, solve
from qwen35_gguf.release import record, state
from qwen35_gguf.runtime.tuning import profiles

MARK = b"\n"  # the first line of an input names the file that the rest is
EXTRA = {
    "special_tokens_map.json": {"eos_token": {"content": "<|im_end|>"}, "additional_special_tokens": ["<|im_start|>"]},
    "added_tokens.json": {"<|im_end|>": 301},
    "chat_template.json": {"chat_template": "{{ messages }}"},
    "processor_config.json": {"image_processor": {"image_mean": [0.5, 0.5, 0.5]}, "processor_class": "x"},
}

# A description of each method as its library writes it: shortened, with what its reader looks at.
QUANTIZED: tuple[dict[str, Any], ...] = (
    {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "fp8", "weight_block_size": "128x128", "ignored_layers": []},
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "checkpoint_format": "gptq_v2",
     "dynamic": {"-:mlp": {}, "+:attn": {"bits": 8, "group_size": 64}}},
    {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4, "group_size": -1},
    {"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "version": "GEMV", "modules_to_not_convert": None},
    {"load_in_4bit": True, "llm_int8_skip_modules": ["lm_head"]},
    {"config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 32, "symmetric": False,
                                         "block_structure": [128, 128]}}}, "ignore": ["lm_head"]},
    {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]},
    {"quant_method": "mxfp4"}, {"quant_method": "hqq"}, {"weight_block_size": [1]}, {"a": 1},
)  # fmt: skip
ROPE: tuple[dict[str, Any], ...] = (
    {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 4096, "truncate": True,
     "beta_fast": 32, "beta_slow": 1, "attention_factor": 1.1, "mscale": 1, "mscale_all_dim": 0},
    {"type": "linear", "factor": 2, "rope_theta": 1e4, "mrope_section": [11, 11, 10]},
    {"type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.3, "mrope_interleaved": False},
)  # fmt: skip


def _example() -> ModuleType:
    name = "make_checkpoint"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "make_checkpoint.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@functools.cache
def checkpoint() -> dict[str, bytes]:
    """The contents of a small checkpoint by the name of the file; the weights are in the folder already."""
    folder = scratch() / "checkpoint"
    example = _example()
    example.make_checkpoint(folder, example.build_spec(vocab=300), shards=2)
    for name, content in EXTRA.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en, no]\ntags: [a]\n---\n# A model\n")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}


def read_checkpoint(data: bytes) -> None:
    """Plan the conversion of a checkpoint of which one file is replaced."""
    name, _, content = data.partition(MARK)
    files = checkpoint()
    file = as_text(name)
    if file not in files:
        file = sorted(files)[len(name) % len(files)]
    path = scratch() / "checkpoint" / file
    path.write_bytes(content)
    try:
        plan_conversion(ConversionOptions(path.parent, "Q8_0", scratch() / "out"))
    finally:
        path.write_bytes(files[file])


def checkpoint_seeds() -> list[bytes]:
    """Each file that is small, and configurations with each method of quantization and kind of rotary positions."""
    seeds = [name.encode() + MARK + content for name, content in checkpoint().items() if len(content) < 4000]
    config = json.loads(checkpoint()["config.json"])
    changes: list[dict[str, Any]] = [{"quantization_config": one} for one in QUANTIZED]
    changes += [{"quantization": {"group_size": 64, "bits": 4, "lm_head": False, "a": {"bits": 8, "mode": "mxfp4"}}}]
    changes += [{"transformers_weights": name} for name in ("model.safetensors.index.json", "../a", "absent")]
    seeds += [b"config.json" + MARK + json.dumps(config | one).encode() for one in changes]
    for rope in ROPE:
        text = config.get("text_config", config) | {"rope_scaling": rope}
        seeds.append(b"config.json" + MARK + json.dumps(config | {"text_config": text}).encode())
    return seeds


FOLDERS: tuple[tuple[str, ...], ...] = (
    ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    ("model-00001-of-00002.safetensors", "model-00001-of-00003.safetensors"),
    ("model-00002-of-00002.safetensors",), ("adapter_model.safetensors",), ("pytorch_model.bin",), (),
    ("model.fp16.safetensors", "consolidated.safetensors"), ("optimizer.safetensors",), ("weights.safetensors",),
    ("model.safetensors",), ("a.safetensors",),
)  # fmt: skip


def find_weights(data: bytes) -> None:
    """Find the weights of a checkpoint: a line of names of files, a line of transformers_weights, an index."""
    names, _, rest = data.partition(MARK)
    named, _, index = rest.partition(MARK)
    folder = scratch() / "weights"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in names.split(b" ")[:8]:
        with contextlib.suppress(OSError, ValueError):
            (folder / os.fsdecode(name.replace(b"/", b"_"))).touch()
    if index:
        (folder / weight_files.INDEX).write_bytes(index)
    config = {"transformers_weights": as_text(named)} if named else {}
    found = weight_files.find_weight_files(folder, config, Parts(mtp=len(data) % 2 == 0))
    assert all(path.parent == folder and path.is_file() for path in found.paths)
    held = set(list(found.weight_map)[1:] if len(data) % 3 == 0 else found.weight_map)
    weight_files.check_index(folder, found.weight_map, held, ALL)


def weight_seeds() -> list[bytes]:
    """Folders of each kind, without and with an index, and what config.json names."""
    seeds = [" ".join(names).encode() + b"\n\n" for names in FOLDERS]
    for file in ("a.safetensors", "b.bin", "../a", "absent.safetensors", "model.safetensors"):
        index = json.dumps({"weight_map": {"model.norm.weight": file, "mtp.norm.weight": file}}).encode()
        for names in (b"a.safetensors", b"model.safetensors", b"b.bin"):
            seeds += [names + b"\n\n" + index, names + b"\n" + file.encode() + b"\n" + index]
        seeds.append(b"a.safetensors\n" + weight_files.INDEX.encode() + b"\n" + index)
    return [*seeds, b"model.safetensors\n\n{", b"model.safetensors\n\n{}"]


def read_any(data: bytes) -> None:
    """Parse an object, and read an entry of each kind of name."""
    found = parse_json(data, "x.json")
    for key in list(found.values)[:20]:
        found.mistake(key, "a text")


def read_adapter(data: bytes) -> None:
    """Read the configuration of a PEFT adapter."""
    folder = scratch() / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(data)
    found = adapter_config.read_config(folder)
    for module in ("model.layers.0.self_attn.q_proj", "lm_head"):
        found.scale_of(module)


def adapter_seeds() -> list[bytes]:
    """A LoRA with all that changes what it means."""
    config = {
        "peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_rslora": True, "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"q_proj": 4}, "target_modules": ["q_proj"], "modules_to_save": None, "bias": "none",
        "base_model_name_or_path": "x", "fan_in_fan_out": False, "use_dora": False, "layers_to_transform": [1],
    }  # fmt: skip
    return [json.dumps(config).encode()]


def read_release(data: bytes) -> None:
    """Read what a release recorded: how it was made, and how far it came."""
    folder = scratch() / "release"
    folder.mkdir(exist_ok=True)
    (folder / record.RECIPE).write_bytes(data)
    (folder / state.STATE).write_bytes(data)
    record.is_record(folder / record.RECIPE)
    try:
        found = record.read_record(folder)
        for given in ("", str(folder / "absent.moments")):
            with contextlib.suppress(PackageError):
                found.with_moments(given)
    except PackageError:
        progress = state.begin(folder, {"a": 1}, extends=True)
        names = [name for name in progress.linted if is_inside(name, nested=False) and can_be_stored(name)]
        state.incomplete(folder, names, progress, len)  # a plan's names, which are made by the package
        state.save(folder, progress)


def release_seeds() -> list[bytes]:
    """Both kinds."""
    options = {"model": "m", "quants": ["Q4_K_M"], "mmproj_types": ["Q8_0"], "adapter_scales": [1.0]}
    figures = {"a.gguf": {"mean": 0.1, "low": 0.0, "high": 0.2, "same_top": 0.9, "tokens": 5}}
    kept = {"inputs": {"a": 1}, "weights": "w", "files": {"a.gguf": "00"}, "figures": figures, "linted": ["a.gguf"]}
    rounded = options | {"rounding": "full", "imatrix": "i.gguf", "heads": True, "max_shard_size": 5}
    shards = {f"a-0000{number}-of-00002.gguf": "00" for number in (1, 2)}
    states = [kept, kept | {"inputs": {"a": 2}}, kept | {"files": shards, "linted": [*shards, "b.gguf"]}, {"later": 1}]
    records = [{"tool": "qwen35-gguf 0", "options": one} for one in (options, rounded, {"later": 1})]
    return [json.dumps(one).encode() for one in (*records, {"files": []}, *states)]


def read_profile(data: bytes) -> None:
    """Look a profile up."""
    model = as_file("tuned.gguf", b"GGUF")
    path = as_file("profile.json", data)
    with mock.patch.object(profiles, "path_of", return_value=path):
        str(profiles.load(model))


def profile_seeds() -> list[bytes]:
    """A profile of this version."""
    model = as_file("tuned.gguf", b"GGUF")
    settings = profiles.Settings(1, 1)
    with mock.patch.object(profiles, "path_of", return_value=scratch() / "seed-profile.json"):
        path = profiles.save(profiles.Profile(settings, profiles.GOALS[0], 1.5, "2026-01-01"), model)
    return [path.read_bytes()]


def read_costs(data: bytes) -> None:
    """Read costs, and solve for a size."""
    found = costs.read(as_file("costs.json", data))
    solution = solve.for_size(found, 1000)
    solve.as_recipe(found, solution, "n", "Q4_K_M")


def costs_seeds() -> list[bytes]:
    """Two tensors in two types."""
    made = costs.Costs("m", "i", 2, 100, 10, 20)
    types = costs.Type
    for name in ("blk.0.ffn_up.weight", "output.weight"):
        made.costs += [costs.Cost(name, types.Q4_K, 50, 0.1, 0.2), costs.Cost(name, types.Q8_0, 100, 0.01, 0.02)]
    path = scratch() / "seed-costs.json"
    costs.write(made, path)
    return [path.read_bytes()]


def any_seeds() -> list[bytes]:
    """An object with every type."""
    return [b'{"a": 1, "b": [null, true, 1.5, "x"], "c": {"d": {}}}']


CHECKPOINT = (
    "qwen35_gguf.json_file", "qwen35_gguf.architecture.config", "qwen35_gguf.convert.config.check",
    "qwen35_gguf.convert.config.rope", "qwen35_gguf.convert.dequantize.methods", "qwen35_gguf.convert.metadata",
    "qwen35_gguf.convert.front_matter", "qwen35_gguf.convert.tokenizer.added_tokens",
    "qwen35_gguf.convert.tokenizer.bpe", "qwen35_gguf.convert.tokenizer.chat_template",
    "qwen35_gguf.convert.tokenizer.files", "qwen35_gguf.convert.tokenizer.special_ids",
    "qwen35_gguf.convert.source_tensors.weight_files",
)  # fmt: skip
KEYS = ('"text_config"', '"quantization_config"', '"quant_method"', '"rope_parameters"', '"layer_types"', "null")


def _targets() -> Sequence[Target]:
    return (
        Target("json", read_any, any_seeds, ("qwen35_gguf.json_file",), ("\\ud800", "1e999", "NaN")),
        Target("checkpoint", read_checkpoint, checkpoint_seeds, CHECKPOINT, KEYS, needs=("jinja2",)),
        Target("adapter-config", read_adapter, adapter_seeds, ("qwen35_gguf.convert.adapters.adapter_config",)),
        Target("release", read_release, release_seeds, ("qwen35_gguf.release.record", "qwen35_gguf.release.state")),
        Target(
            "weight-files", find_weights, weight_seeds, CHECKPOINT[-1:], ("-of-0000", ".safetensors", "../", ".bin")
        ),
        Target("profile", read_profile, profile_seeds, ("qwen35_gguf.runtime.tuning.profiles",)),
        Target("costs", read_costs, costs_seeds, ("qwen35_gguf.quant.search.costs", "qwen35_gguf.quant.search.solve")),
    )


TARGETS = _targets()
