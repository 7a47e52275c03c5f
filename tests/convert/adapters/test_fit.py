"""Every key of an adapter has a place in the base, whatever its prefix, or is refused in one line that names it."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs.adapters import PREFIX, low_rank, write_adapter
from qwen35_gguf.convert.adapters.adapter_folder import open_adapters
from qwen35_gguf.convert.adapters.merging import merge_adapters
from qwen35_gguf.convert.checkpoint import Checkpoint, open_checkpoint
from qwen35_gguf.convert.source_tensors.parts import Parts
from qwen35_gguf.errors import AdapterError

pytestmark = pytest.mark.unit
Make = Callable[..., Path]

O_PROJ = low_rank("layers.3.self_attn.o_proj", 256, 256)
A_KEY, B_KEY = O_PROJ
O_NAME = "layers.3.self_attn.o_proj.weight"
NORM = f"{PREFIX}layers.3.input_layernorm.weight"
HEAD = "base_model.model.lm_head.weight"


def merge(base: Path, *folders: Path, scales: tuple[float, ...] = (), parts: Parts | None = None) -> Checkpoint:
    return merge_adapters(open_checkpoint(base, parts or Parts()), open_adapters(folders, scales))


def product(tensors: Mapping[str, Any], scale: float = 2.0) -> Any:
    a, b = tensors.values()
    return np.float32(scale) * b @ a


def added(checkpoint: Checkpoint, name: str) -> Any:
    """What was added to a matrix of the base, to be compared with a tolerance of BF16."""
    return checkpoint.read(name).astype(np.float32) - open_checkpoint(checkpoint.directory).read(name).astype(
        np.float32
    )


KEYS = {
    "image and text model": "base_model.model.model.language_model.{}.lora_A.weight",
    "text model": "base_model.model.model.{}.lora_A.weight",
    "without a prefix": "model.language_model.{}.lora_A.weight",
    "bare": "{}.lora_A.weight",
    "with the adapter's name": "base_model.model.model.language_model.{}.lora_A.default.weight",
    "another name": "base_model.model.model.layers.3.self_attn.o_proj.lora_A.my_adapter.weight",
    "compiled": "base_model.model._orig_mod.model.language_model.{}.lora_A.weight",
    "data parallel": "module.base_model.model.model.language_model.{}.lora_A.weight",
    "twice": "base_model.model.base_model.model.model.{}.lora_A.weight",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_prefixes_are_stripped(checkpoint: Make, tmp_path: Path, key: str) -> None:
    a_key = key.format("layers.3.self_attn.o_proj")
    folder = write_adapter(tmp_path / "a", dict(zip((a_key, a_key.replace("_A", "_B")), O_PROJ.values(), strict=True)))
    found = merge(checkpoint(), folder)
    assert list(found.changes) == [O_NAME]
    np.testing.assert_allclose(added(found, O_NAME), product(O_PROJ), atol=4e-3)


@pytest.mark.parametrize("scales", [(0.5,), (-1.0,), (0.0,)])
def test_scale_is_that_of_the_product(checkpoint: Make, tmp_path: Path, scales: tuple[float, ...]) -> None:
    found = merge(checkpoint(), write_adapter(tmp_path / "a", O_PROJ), scales=scales)
    np.testing.assert_allclose(added(found, O_NAME), product(O_PROJ, 2 * scales[0]), atol=4e-3)


def test_mtp_head_and_vision_encoder_have_adapters_too(checkpoint: Make, tmp_path: Path) -> None:
    mtp = low_rank("mtp.layers.0.self_attn.o_proj", 256, 256, prefix="base_model.model.")
    vision = low_rank("visual.blocks.0.attn.proj", 128, 128, prefix="base_model.model.model.")
    folder = write_adapter(tmp_path / "a", mtp | vision)
    found = merge(checkpoint(), folder)
    for name, tensors in (("mtp.layers.0.self_attn.o_proj", mtp), ("visual.blocks.0.attn.proj", vision)):
        np.testing.assert_allclose(added(found, f"{name}.weight"), product(tensors), atol=4e-3)

    without = merge(checkpoint(), folder, parts=Parts(mtp=False, vision=False))
    assert not without.changes
    assert any("4 tensors are for parts that are left out" in note for note in without.notes)


def test_what_config_json_says_of_a_part_that_is_left_out_does_not_matter(checkpoint: Make, tmp_path: Path) -> None:
    base = Path(shutil.copytree(checkpoint(), tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["mtp_num_hidden_layers"] = "one"
    (base / "config.json").write_text(json.dumps(config))
    found = merge(base, write_adapter(tmp_path / "a", O_PROJ), parts=Parts(mtp=False))
    assert list(found.changes) == [O_NAME]


@pytest.mark.parametrize("single", [False, True], ids=["base stacked", "base single"])
@pytest.mark.parametrize("form", ["parameters", "before 0.18", "modules"])
def test_experts_stacked_or_single(checkpoint: Make, tmp_path: Path, single: bool, form: str) -> None:
    base = checkpoint(moe=True, vision=False)
    if single:
        base = with_single_experts(base, tmp_path / "base")
    count, ffn, hidden = 8, 256, 256
    rng = np.random.default_rng(1)
    a = {p: rng.normal(0, 0.1, (count, 4, hidden)).astype(np.float32) for p in ("gate", "up")}
    b = {p: rng.normal(0, 0.1, (count, ffn, 4)).astype(np.float32) for p in ("gate", "up")}
    deltas = {p: 2 * b[p] @ a[p] for p in a}
    stem = f"{PREFIX}layers.0.mlp.experts"
    if form == "modules":
        tensors = {}
        for expert, p in itertools.product(range(count), a):
            tensors[f"{stem}.{expert}.{p}_proj.lora_A.weight"] = a[p][expert]
            tensors[f"{stem}.{expert}.{p}_proj.lora_B.weight"] = b[p][expert]
    else:
        # One A for both halves of gate_up_proj.
        both = np.concatenate([b["gate"], b["up"]], axis=1)
        deltas = {"gate": 2 * b["gate"] @ a["gate"], "up": 2 * b["up"] @ a["gate"]}
        if form == "parameters":
            factors = a["gate"].reshape(-1, hidden), np.moveaxis(both, 0, 2).reshape(2 * ffn, -1)
        else:
            factors = (
                np.moveaxis(both, 2, 1).reshape(-1, 2 * ffn),
                np.moveaxis(a["gate"], (2, 1, 0), (0, 1, 2)).reshape(hidden, -1),
            )
        tensors = dict(zip((f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"), factors, strict=True))
    found = merge(base, write_adapter(tmp_path / "a", tensors))
    for expert in range(count):
        for p, rows in (("gate", slice(0, ffn)), ("up", slice(ffn, None))):
            if single:
                difference = added(found, f"layers.0.mlp.experts.{expert}.{p}_proj.weight")
            else:
                difference = added(found, "layers.0.mlp.experts.gate_up_proj")[expert, rows]
            np.testing.assert_allclose(difference, deltas[p][expert], atol=4e-3)


def with_single_experts(base: Path, folder: Path) -> Path:
    """Copy a checkpoint with stacked experts, with each expert's matrices saved singly."""
    import shutil

    import ml_dtypes  # noqa: F401 (BF16 for safetensors)
    from safetensors.numpy import save_file

    shutil.copytree(base, folder)
    stacked = open_checkpoint(base)
    tensors = {}
    for name, stored in stacked.tensors.items():
        values = np.ascontiguousarray(stacked.read(name))
        if not name.endswith(("gate_up_proj", "experts.down_proj")):
            tensors[stored.name] = values
            continue
        stem = stored.name.rpartition(".")[0]
        for expert, matrix in enumerate(values):
            if name.endswith("gate_up_proj"):
                gate, up = np.split(matrix, 2)
                tensors[f"{stem}.{expert}.gate_proj.weight"] = np.ascontiguousarray(gate)
                tensors[f"{stem}.{expert}.up_proj.weight"] = np.ascontiguousarray(up)
            else:
                tensors[f"{stem}.{expert}.down_proj.weight"] = np.ascontiguousarray(matrix)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_saved_head_unties_and_equal_copies_of_the_base_do_not(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint(vision=False)
    embedding = open_checkpoint(base).read("embed_tokens.weight").astype(np.float32)
    untied = merge(base, write_adapter(tmp_path / "saved", {HEAD: embedding + 1}))
    assert not untied.tied
    np.testing.assert_allclose(added(untied, "embed_tokens.weight"), 0)
    np.testing.assert_allclose(untied.read("lm_head.weight").astype(np.float32), embedding + 1, atol=8e-3)

    copy = f"{PREFIX}embed_tokens.base_layer.weight"
    assert merge(base, write_adapter(tmp_path / "copy", {copy: embedding, **O_PROJ})).tied


def test_second_adapter_sees_what_the_first_untied(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint(vision=False)
    embedding = open_checkpoint(base).read("embed_tokens.weight").astype(np.float32)
    vocabulary = len(embedding)
    first = write_adapter(tmp_path / "first", {HEAD: embedding + 1})
    head = low_rank("lm_head", vocabulary, 256, prefix="base_model.model.")
    found = merge(base, first, write_adapter(tmp_path / "second", head))
    np.testing.assert_allclose(added(found, "embed_tokens.weight"), 0)
    np.testing.assert_allclose(
        found.read("lm_head.weight").astype(np.float32), embedding + 1 + product(head), atol=0.02
    )


def test_norms_of_a_base_that_has_the_one_added(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint(style="mlx", vision=False)
    values = np.linspace(-0.5, 0.5, 256, dtype=np.float32)
    found = merge(base, write_adapter(tmp_path / "a", {NORM: values}))
    np.testing.assert_allclose(found.read("layers.3.input_layernorm.weight").astype(np.float32), values + 1, atol=8e-3)


def test_notes_name_the_base_that_it_was_trained_on(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint()
    other = write_adapter(tmp_path / "other", O_PROJ, base_model_name_or_path="Qwen/Qwen3.5-9B")
    assert any("trained on Qwen/Qwen3.5-9B" in note for note in merge(base, other).notes)
    same = write_adapter(tmp_path / "same", O_PROJ, base_model_name_or_path=f"unsloth/{base.name}-unsloth-bnb-4bit")
    assert not any("trained on" in note for note in merge(base, same).notes)


NAN = dict(O_PROJ) | {B_KEY: np.full_like(O_PROJ[B_KEY], np.nan)}
MAGNITUDE = A_KEY.replace("lora_A.weight", "lora_magnitude_vector")

# Name: tensors, changes of the configuration, what the message contains.
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "A alone": ({A_KEY: O_PROJ[A_KEY]}, {}, (A_KEY, "has no lora_B beside it")),
    "B alone": ({B_KEY: O_PROJ[B_KEY]}, {}, (B_KEY, "has no lora_A beside it")),
    "not a number": (NAN, {}, (B_KEY, "not finite")),
    "infinite norm": ({NORM: np.full(256, np.inf, np.float32)}, {}, (NORM, "not finite")),
    "unknown module": (low_rank("layers.3.self_attn.p_proj", 256, 256), {}, ("p_proj.lora_A.weight", "does not have")),
    "layer too many": (low_rank("layers.9.self_attn.o_proj", 256, 256), {}, ("layers.9.", "does not have")),
    "unknown tensor": ({f"{PREFIX}extra.weight": np.ones(3, np.float32)}, {}, ("extra.weight", "does not have")),
    "shape of another model": (low_rank("layers.3.self_attn.o_proj", 256, 128), {}, (A_KEY, "[4, 256]")),
    "rows of another model": (low_rank("layers.3.self_attn.o_proj", 128, 256), {}, (A_KEY, "[256, 4]")),
    "rank of the configuration": (O_PROJ, {"r": 8}, (A_KEY, "rank 8")),
    "rank of a pattern": (O_PROJ, {"rank_pattern": {"o_proj": 2}}, (A_KEY, "rank 2")),
    "shape of a norm": ({NORM: np.ones(7, np.float32)}, {}, (NORM, "[7]", "[256]")),
    "resized vocabulary": ({HEAD: np.ones((9999, 256), np.float32)}, {}, (HEAD, "resized to 9,999 tokens")),
    "magnitude without dora": (O_PROJ | {MAGNITUDE: np.ones(256, np.float32)}, {}, ("use_dora is false", MAGNITUDE)),
    "dora without magnitude": (O_PROJ, {"use_dora": True}, ("lora_magnitude_vector", A_KEY)),
    "short magnitude": (O_PROJ | {MAGNITUDE: np.ones(9, np.float32)}, {"use_dora": True}, (MAGNITUDE, "9 values")),
    "convolution by channels": (
        low_rank("layers.0.linear_attn.conv1d", 1024, 4),
        {},
        ("conv1d.lora_A.weight",),
    ),
    "bias where there is none": (
        O_PROJ | {B_KEY.replace("weight", "bias"): np.ones(256, np.float32)},
        {"lora_bias": True},
        ("lora_B.bias", "none of its shape"),
    ),
    "tokens that are not named": (
        {f"{PREFIX}embed_tokens.token_adapter.trainable_tokens_delta": np.ones((2, 256), np.float32)},
        {},
        ("trainable_token_indices names 0 tokens",),
    ),
    "token beyond the vocabulary": (
        {f"{PREFIX}embed_tokens.token_adapter.trainable_tokens_delta": np.ones((1, 256), np.float32)},
        {"trainable_token_indices": [999999]},
        ("token 999999",),
    ),
    "same module twice": (
        O_PROJ | low_rank("layers.3.self_attn.o_proj", 256, 256, prefix="base_model.model.model."),
        {},
        ("are for the same module",),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_by_name(checkpoint: Make, tmp_path: Path, fault: str) -> None:
    tensors, config, wanted = FAULTS[fault]
    folder = write_adapter(tmp_path / "a", tensors, **config)
    with pytest.raises(AdapterError) as error:
        merge(checkpoint(), folder)
    message = str(error.value)
    assert "\n" not in message
    assert all(text in message for text in wanted), message


def test_base_with_experts_refuses_those_of_another_count(checkpoint: Make, tmp_path: Path) -> None:
    tensors = low_rank("layers.0.mlp.experts", 512, 256, rank=4 * 6)
    with pytest.raises(AdapterError, match=r"experts\.lora_A\.weight.*fit no tensor of the experts"):
        merge(checkpoint(moe=True, vision=False), write_adapter(tmp_path / "a", tensors))
