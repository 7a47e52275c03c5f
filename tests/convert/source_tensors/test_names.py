"""Every way in which tools spell the names of tensors leads to one name, and to the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inputs import saved_tensors
from inputs.saved_tensors import Tensors
from qwen35_gguf.convert import hf_to_gguf, verify
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.source_tensors import names
from qwen35_gguf.errors import CheckpointError

Factory = Callable[..., Path]
Q_PROJ = "layers.0.self_attn.q_proj.weight"

SPELLINGS = {
    "model.language_model.layers.0.self_attn.q_proj.weight": (),
    "language_model.model.layers.0.self_attn.q_proj.weight": (),
    "language_model.layers.0.self_attn.q_proj.weight": (),
    "model.layers.0.self_attn.q_proj.weight": (),
    "layers.0.self_attn.q_proj.weight": (),
    "model.language_model.language_model.layers.0.self_attn.q_proj.weight": ("model.language_model.language_model.",),
    "model.language_model.model.language_model.layers.0.self_attn.q_proj.weight": (
        "model.language_model.model.language_model.",
    ),
    "model.model.layers.0.self_attn.q_proj.weight": ("model.model.",),
    "model.model.language_model.layers.0.self_attn.q_proj.weight": ("model.model.language_model.",),
    "_orig_mod.model.layers.0.self_attn.q_proj.weight": ("_orig_mod.",),
    "model.layers.0._orig_mod.self_attn.q_proj.weight": ("_orig_mod.",),
    "model.layers.0.self_attn.q_proj._orig_mod.weight": ("_orig_mod.",),
    "module.model.language_model.layers.0.self_attn.q_proj.weight": ("module.",),
    "module._orig_mod.model.layers.0.self_attn.q_proj.weight": ("module.", "_orig_mod."),
    "_forward_module.model.layers.0.self_attn.q_proj.weight": ("_forward_module.",),
    "base_model.model.model.language_model.layers.0.self_attn.q_proj.weight": ("base_model.model.",),
    "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight": ("base_model.model.", "base_layer."),
    "model.layers.0.self_attn.q_proj.modules_to_save.default.weight": ("modules_to_save.default.",),
    "model.layers.0.self_attn.q_proj.modules_to_save.mine.weight": ("modules_to_save.mine.",),
    "_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module.self_attn.q_proj.weight": (
        "_fsdp_wrapped_module.",
        "_fsdp_wrapped_module.",
    ),
    "model.layers.0._checkpoint_wrapped_module.self_attn.q_proj.weight": ("_checkpoint_wrapped_module.",),
    "pretrained_model.model.layers.0.self_attn.q_proj.weight": ("pretrained_model.",),
    "state_dict.model.layers.0.self_attn.q_proj.weight": ("state_dict.",),
    "actor.module.model.layers.0.self_attn.q_proj.weight": ("actor.", "module."),
    "policy.model.layers.0.self_attn.q_proj.weight": ("policy.",),
}
OTHERS = {
    "lm_head.weight": "lm_head.weight",
    "model.lm_head.weight": "lm_head.weight",
    "language_model.lm_head.weight": "lm_head.weight",
    "base_model.model.lm_head.modules_to_save.default.weight": "lm_head.weight",
    "model.language_model.norm.weight": "norm.weight",
    "model.mtp.fc.weight": "mtp.fc.weight",
    "language_model.mtp.fc.weight": "mtp.fc.weight",
    "module.mtp.layers.0.mlp.experts.0.gate_proj.weight": "mtp.layers.0.mlp.experts.0.gate_proj.weight",
    "visual.pos_embed.weight": "visual.pos_embed.weight",
    "model.visual.pos_embed.weight": "visual.pos_embed.weight",
    "model.language_model.visual.pos_embed.weight": "visual.pos_embed.weight",
    "model.visual.visual.pos_embed.weight": "visual.pos_embed.weight",
    "vision_tower.pos_embed.weight": "visual.pos_embed.weight",
    "model.vision_tower.pos_embed.weight": "visual.pos_embed.weight",
    "model.layers.1.mlp.experts.down_proj.weight": "layers.1.mlp.experts.down_proj",
    "language_model.model.layers.1.mlp.switch_mlp.gate_proj.weight": "layers.1.mlp.experts.gate_proj",
    "language_model.model.layers.1.mlp.switch_mlp.down_proj.weight": "layers.1.mlp.experts.down_proj",
    "model.layers.1.mlp.experts.3.down_proj.weight": "layers.1.mlp.experts.3.down_proj.weight",
}


@pytest.mark.parametrize(("stored", "wrappers"), SPELLINGS.items())
def test_a_name_is_found_whatever_wraps_it(stored: str, wrappers: tuple[str, ...]) -> None:
    assert names.take_apart(stored) == (Q_PROJ, wrappers, False)


@pytest.mark.parametrize(("stored", "canonical"), OTHERS.items())
def test_the_other_parts_have_names_of_their_own(stored: str, canonical: str) -> None:
    assert names.canonical_name(stored) == canonical


@given(
    st.lists(st.sampled_from(["model", "language_model", *names.WRAPPERS]), max_size=5),
    st.lists(st.sampled_from(list(names.WRAPPERS)), max_size=2),
    st.sampled_from([Q_PROJ, "norm.weight", "mtp.fc.weight", "visual.blocks.0.attn.qkv.bias", "lm_head.weight"]),
    st.data(),
)
def test_wrappers_in_any_order_and_place_are_stripped(
    before: list[str], inside: list[str], name: str, data: st.DataObject
) -> None:
    segments = name.split(".")
    for wrapper in inside:
        segments.insert(data.draw(st.integers(1, len(segments) - 1)), wrapper)
    assert names.canonical_name(".".join([*before, *segments])) == name


SEGMENTS = [
    *names.WRAPPERS, names.TRAINED, names.ORIGINAL, *names.ROOTS, *names.VISION_ROOTS, "base_model", "0", "weight"
]  # fmt: skip


@given(st.one_of(st.text(min_size=1), st.lists(st.sampled_from(SEGMENTS), min_size=1).map(".".join)))
def test_any_name_has_a_canonical_one(stored: str) -> None:
    assert isinstance(names.canonical_name(stored), str)


@given(st.lists(st.sampled_from([*names.WRAPPERS, names.TRAINED, names.ORIGINAL]), min_size=1).map(".".join))
def test_a_name_of_nothing_but_wrappers_is_kept(stored: str) -> None:
    assert names.take_apart(stored) == names.Name(stored)


def test_a_wrapper_is_noted_once_with_an_example() -> None:
    stored = ["module.model.norm.weight", "module.model.layers.0._orig_mod.mlp.up_proj.weight", "lm_head.weight"]
    assert names.wrapper_notes(stored) == [
        "2 tensor names have module. (data parallelism), which is stripped: module.model.norm.weight is read as "
        "norm.weight",
        "1 tensor names have _orig_mod. (torch.compile), which is stripped: "
        "module.model.layers.0._orig_mod.mlp.up_proj.weight is read as layers.0.mlp.up_proj.weight",
    ]


WRAPPED: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "data parallelism": lambda name: f"module.{name}",
    "PEFT": lambda name: f"base_model.model.{name}",
    "doubled": lambda name: name.replace("model.language_model.", "model.language_model.language_model."),
    "base model": lambda name: name.replace("model.language_model.", "").replace("model.visual.", "visual."),
}


@pytest.mark.parametrize("rename", WRAPPED.values(), ids=WRAPPED.keys())
def test_a_wrapped_checkpoint_gives_the_same_tensors(
    checkpoint: Factory, tmp_path: Path, rename: Callable[[str], str]
) -> None:
    folder = saved_tensors.changed(
        checkpoint(), tmp_path / "in", lambda tensors: {rename(name): array for name, array in tensors.items()}
    )
    wanted = hf_to_gguf.convert(checkpoint(), "Q8_0", tmp_path / "wanted", name="Tiny")
    found = hf_to_gguf.convert(folder, "Q8_0", tmp_path / "found", name="Tiny")
    for one, other in zip(wanted, found, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert all(result.passed for result in verify.verify(other, folder))


def test_the_trained_copy_counts_and_not_the_original(checkpoint: Factory, tmp_path: Path) -> None:
    name = "model.language_model.embed_tokens"

    def train(tensors: Tensors) -> None:
        original = tensors.pop(f"{name}.weight")
        tensors[f"{name}.modules_to_save.default.weight"] = original * 2
        tensors[f"{name}.original_module.weight"] = original

    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", train)
    opened = open_checkpoint(folder)
    assert opened.tensors["embed_tokens.weight"].name == f"{name}.modules_to_save.default.weight"
    assert any("modules_to_save.default. (PEFT)" in note for note in opened.notes)


def test_an_original_alone_is_used(checkpoint: Factory, tmp_path: Path) -> None:
    name = "model.language_model.norm.weight"

    def rename(tensors: Tensors) -> None:
        tensors["model.language_model.norm.original_module.weight"] = tensors.pop(name)

    assert "norm.weight" in open_checkpoint(saved_tensors.changed(checkpoint(), tmp_path / "in", rename)).tensors


@pytest.mark.parametrize("twin", ["_orig_mod.model.language_model.norm.weight", "module.norm.weight"])
def test_two_names_of_one_tensor_are_refused_by_both(checkpoint: Factory, tmp_path: Path, twin: str) -> None:
    def double(tensors: Tensors) -> None:
        tensors[twin] = tensors["model.language_model.norm.weight"]

    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", double)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert "model.language_model.norm.weight" in str(caught.value)
    assert twin in str(caught.value)


@pytest.mark.parametrize("equal", [True, False])
def test_one_name_in_two_files_must_have_equal_values(checkpoint: Factory, tmp_path: Path, equal: bool) -> None:
    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", lambda tensors: tensors)
    tensors = saved_tensors.read(folder / "model.safetensors")
    norm = "model.language_model.norm.weight"
    rest = {name: array for name, array in tensors.items() if "layers.3" in name}
    rest[norm] = tensors[norm] if equal else -tensors[norm]
    first = {name: array for name, array in tensors.items() if "layers.3" not in name}
    saved_tensors.write_shards(folder, {"a.safetensors": first, "b.safetensors": rest})
    if equal:
        assert open_checkpoint(folder).tensors.keys() == open_checkpoint(checkpoint()).tensors.keys()
        return
    with pytest.raises(CheckpointError, match=r"is in a\.safetensors and in b\.safetensors, with different"):
        open_checkpoint(folder)
