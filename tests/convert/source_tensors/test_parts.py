"""What is left out is neither needed nor checked; what a text model does not use is left out with a note."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from inputs import saved_tensors
from inputs.saved_tensors import Tensors, edit_json
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf, verify
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.source_tensors.names import canonical_name
from qwen35_gguf.convert.source_tensors.parts import Parts, is_text_model, part_of
from qwen35_gguf.convert.tensor_plan import TensorPlan, plan_tensors
from qwen35_gguf.errors import CheckpointError

Factory = Callable[..., Path]
OPTION = {"mtp": "--no-mtp", "vision": "--no-vision"}
SAMPLE = {"mtp": "mtp.fc.weight", "vision": "model.visual.merger.linear_fc1.weight"}


def of(part: str, tensors: Tensors) -> list[str]:
    return [name for name in tensors if part_of(canonical_name(name)) == part]


def outputs(plan: TensorPlan) -> list[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    return [(one.name, one.sources, one.shape) for one in (*plan.text, *plan.vision)]


def drop_all(part: str, tensors: Tensors) -> None:
    for name in of(part, tensors):
        del tensors[name]


def keep_one(part: str, tensors: Tensors) -> None:
    for name in of(part, tensors)[1:]:
        del tensors[name]


def drop_one(part: str, tensors: Tensors) -> None:
    del tensors[SAMPLE[part]]


def misshape(part: str, tensors: Tensors) -> None:
    tensors[SAMPLE[part]] = tensors[SAMPLE[part]][:-1]


def pack(part: str, tensors: Tensors) -> None:
    tensors[SAMPLE[part]] = tensors[SAMPLE[part]].view(np.int16).astype(np.int32)


def lose_scales(part: str, tensors: Tensors) -> None:
    tensors[SAMPLE[part]] = tensors[SAMPLE[part]].astype(saved_tensors.TYPES["F8_E4M3"])


def add_unknown(part: str, tensors: Tensors) -> None:
    tensors[SAMPLE[part].replace("weight", "lora_A.weight")] = tensors[SAMPLE[part]]


def double(part: str, tensors: Tensors) -> None:
    tensors["_orig_mod." + SAMPLE[part]] = tensors[SAMPLE[part]]


DAMAGES = [drop_all, keep_one, drop_one, misshape, pack, lose_scales, add_unknown, double]


@pytest.mark.parametrize("part", ["mtp", "vision"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_tensors_of_a_part_that_is_left_out_may_be_anything(
    checkpoint: Factory, tmp_path: Path, part: str, damage: Callable[[str, Tensors], None]
) -> None:
    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", lambda tensors: damage(part, tensors))
    without = Parts(**{part: False})
    wanted = plan_tensors(open_checkpoint(checkpoint()), without)
    found = plan_tensors(open_checkpoint(folder, without))
    assert outputs(found) == outputs(wanted)
    assert found.notes == wanted.notes
    if damage is not drop_all:  # with the part it is an error, whose line names the option that helps
        with pytest.raises(CheckpointError) as caught:
            plan_tensors(open_checkpoint(folder))
        if damage in (keep_one, drop_one, misshape):
            assert OPTION[part] in str(caught.value)


@pytest.mark.parametrize("part", ["mtp", "vision"])
def test_a_file_truncated_in_a_part_that_is_left_out_is_converted(
    checkpoint: Factory, tmp_path: Path, part: str
) -> None:
    def at_the_end(tensors: Tensors) -> Tensors:
        return {name: tensors[name] for name in sorted(tensors, key=lambda name: name in of(part, tensors))}

    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", at_the_end)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    arguments = ["convert", str(folder), "-q", "Q8_0", "-o", str(tmp_path / "out"), OPTION[part]]
    for extra in (["--dry-run"], []):
        result = CliRunner().invoke(main, [*arguments, *extra])
        assert result.exit_code == 0, result.output
    text = next(path for path in (tmp_path / "out").glob("*.gguf") if not path.name.startswith("mmproj"))
    if part == "vision":
        assert all(one.passed for one in verify.verify(text, folder))
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(folder)


SHARDS: dict[str, Callable[[Path], object]] = {
    "absent": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "not safetensors": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
}


@pytest.mark.parametrize("part", ["mtp", "vision"])
@pytest.mark.parametrize("damage", SHARDS.values(), ids=SHARDS.keys())
def test_a_shard_with_nothing_that_is_wanted_is_not_opened(
    checkpoint: Factory, tmp_path: Path, part: str, damage: Callable[[Path], object]
) -> None:
    folder = Path(shutil.copytree(checkpoint(), tmp_path / "in"))
    tensors = saved_tensors.read(folder / "model.safetensors")
    left = {name: tensors[name] for name in of(part, tensors)}
    kept = {name: array for name, array in tensors.items() if name not in left}
    saved_tensors.write_shards(folder, {"model-00001.safetensors": kept, "model-00002.safetensors": left})
    damage(folder / "model-00002.safetensors")
    parts = Parts(**{part: False})
    plan_tensors(open_checkpoint(folder, parts))
    with pytest.raises(CheckpointError, match="model-00002.safetensors"):
        open_checkpoint(folder)


def test_verify_needs_only_what_the_file_holds(checkpoint: Factory, tmp_path: Path) -> None:
    source = checkpoint()
    text, vision = hf_to_gguf.convert(source, "Q8_0", tmp_path, mtp=False)
    folder = Path(shutil.copytree(source, tmp_path / "in"))
    tensors = saved_tensors.read(folder / "model.safetensors")
    shards = {f"{part}.safetensors": {n: tensors[n] for n in of(part, tensors)} for part in ("text", "mtp", "vision")}
    saved_tensors.write_shards(folder, shards)
    (folder / "mtp.safetensors").unlink()
    for file, other in ((text, "vision"), (vision, "text")):
        (folder / f"{other}.safetensors").rename(tmp_path / "aside")
        assert all(one.passed for one in verify.verify(file, folder))
        (tmp_path / "aside").rename(folder / f"{other}.safetensors")


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("--no-mtp", "mtp_num_hidden_layers", 7),
        ("--no-mtp", "mtp_num_hidden_layers", "one"),
        ("--no-mtp", "mtp_num_hidden_layers", -1),
        ("--no-mtp", "mtp_use_dedicated_embeddings", True),
        ("--no-vision", "vision_config", None),
        ("--no-vision", "vision_config", {"depth": "many"}),
        ("--no-vision", "vision_config", {}),
    ],
)
def test_what_config_json_claims_of_a_part_that_is_left_out_is_not_checked(
    checkpoint: Factory, tmp_path: Path, option: str, key: str, value: object
) -> None:
    folder = Path(shutil.copytree(checkpoint(), tmp_path / "in"))
    edit_json(
        folder / "config.json",
        lambda c: (c["text_config"] if key.startswith("mtp") else c).update({key: value}),
    )
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["convert", str(folder), "-q", "Q8_0", "-o", str(out), option])
    assert result.exit_code == 0, result.output


def test_a_damaged_preprocessor_does_not_matter_without_vision(checkpoint: Factory, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint(), tmp_path / "in"))
    (folder / "preprocessor_config.json").write_text("{")
    hf_to_gguf.plan_conversion(hf_to_gguf.ConversionOptions(folder, "Q8_0", tmp_path, vision=False))


def text_only(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"] | {"architectures": ["Qwen3_5ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(text))


def test_a_text_model_ignores_a_vision_encoder_with_a_note(checkpoint: Factory, tmp_path: Path) -> None:
    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", lambda tensors: misshape("vision", tensors))
    text_only(folder)
    plan = plan_tensors(open_checkpoint(folder))
    assert plan.vision == ()
    assert outputs(plan) == outputs(plan_tensors(open_checkpoint(checkpoint(), Parts(vision=False))))
    (note,) = (note for note in plan.notes if "vision" in note)
    assert "Qwen3_5ForCausalLM" in note
    assert "model.visual." in note
    # Who leaves the vision encoder out himself needs no note.
    assert not any("vision" in note for note in plan_tensors(open_checkpoint(folder, Parts(vision=False))).notes)


def test_a_text_model_needs_no_shard_of_a_vision_encoder(checkpoint: Factory, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint(), tmp_path / "in"))
    tensors = saved_tensors.read(folder / "model.safetensors")
    vision = {name: tensors[name] for name in of("vision", tensors)}
    rest = {name: array for name, array in tensors.items() if name not in vision}
    saved_tensors.write_shards(folder, {"a.safetensors": rest, "b.safetensors": vision})
    text_only(folder)
    (folder / "b.safetensors").unlink()
    assert any(f"{len(vision)} tensors of a vision encoder" in note for note in open_checkpoint(folder).notes)


def test_a_vision_encoder_lost_in_a_merge_is_a_note(checkpoint: Factory, tmp_path: Path) -> None:
    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", lambda tensors: drop_all("vision", tensors))
    (note,) = (note for note in plan_tensors(open_checkpoint(folder)).notes if "vision" in note)
    assert "mmproj file of the base model" in note
    assert not plan_tensors(open_checkpoint(folder, Parts(vision=False))).notes


@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("claimed", [0, 1, 2, None])
def test_the_tensors_decide_about_mtp_and_not_config_json(
    checkpoint: Factory, tmp_path: Path, claimed: int | None, held: int
) -> None:
    folder = saved_tensors.changed(
        checkpoint(), tmp_path / "in", lambda tensors: None if held else drop_all("mtp", tensors)
    )
    edit_json(folder / "config.json", lambda c: c["text_config"].update(mtp_num_hidden_layers=claimed))
    plan = plan_tensors(open_checkpoint(folder))
    assert plan.architecture.mtp_blocks == held
    assert any("mtp_num_hidden_layers" in note for note in plan.notes) == (held != (claimed or 0))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"architectures": ["Qwen3_5ForCausalLM"]}, True),
        ({"architectures": ["Qwen3_5MoeForCausalLM"], "vision_config": None}, True),
        ({"model_type": "qwen3_5_text"}, True),
        ({"model_type": "qwen3_5_moe_text", "architectures": []}, True),
        ({"model_type": "qwen3_5"}, False),
        ({"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5"}, False),
        ({"architectures": ["Qwen3_5ForCausalLM"], "vision_config": {"depth": 2}}, False),
        ({"architectures": [{}], "model_type": 3}, False),
    ],
)
def test_a_text_model_is_recognized(config: dict[str, object], text: bool) -> None:
    assert is_text_model(config) == text
