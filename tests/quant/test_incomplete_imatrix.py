"""An importance matrix that lacks some tensors, layers or experts is used for the others, with a note."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.convert import hf_to_gguf, verify
from qwen35_gguf.convert.hf_to_gguf import Conversion, ConversionOptions
from qwen35_gguf.quant import imatrix, presets
from qwen35_gguf.quant.imatrix import Imatrix

Factory = Callable[..., Path]
MTP = "blk.4."  # the tiny model has four layers


def of_checkpoint(source: Path, *, keep: Callable[[str], bool] = lambda _: True) -> Imatrix:
    """An importance matrix for the matrices of a checkpoint whose GGUF names are kept."""
    r = np.random.default_rng(0)
    found = Imatrix(datasets=["wiki.txt"], chunks=7, chunk_size=512)
    (file, *_) = hf_to_gguf.plan_conversion(ConversionOptions(source, "BF16", vision=False)).files
    for tensor in file.tensors:
        if tensor.name.endswith(".weight") and len(tensor.shape) > 1 and keep(tensor.name):
            matrices, columns = (tensor.shape[0] if len(tensor.shape) == 3 else 1), tensor.shape[-1]
            found.add(tensor.name, np.float32(r.gamma(1.0, 5.0, (matrices, columns))), np.full(matrices, 3584.0))
    return found


def planned(source: Path, weights: Imatrix, folder: Path, quant: str, **options: bool) -> Conversion:
    imatrix.write(weights, folder / "i.gguf")
    return hf_to_gguf.plan_conversion(
        ConversionOptions(source, quant, folder / "out", vision=False, imatrix=folder / "i.gguf", **options)
    )


def types_of(conversion: Conversion) -> dict[str, Type]:
    (file,) = conversion.files
    return {info.name: info.type for info in file.infos}


LACKING: dict[str, Callable[[str], bool]] = {
    "the MTP head": lambda name: not name.startswith(MTP),
    "a layer": lambda name: not name.startswith("blk.2."),
    "one tensor": lambda name: name != "blk.1.ffn_down.weight",
    "the MTP head and a layer": lambda name: not name.startswith((MTP, "blk.0.")),
}


@pytest.mark.parametrize("quant", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "Q2_K_S"])
@pytest.mark.parametrize("keep", LACKING.values(), ids=LACKING.keys())
def test_what_lacks_an_entry_gets_a_type_that_needs_none(
    checkpoint: Factory, tmp_path: Path, quant: str, keep: Callable[[str], bool]
) -> None:
    source = checkpoint()
    whole = types_of(planned(source, of_checkpoint(source), tmp_path, quant))
    conversion = planned(source, of_checkpoint(source, keep=keep), tmp_path, quant)
    found = types_of(conversion)
    assert found.keys() == whole.keys()
    changed = {name for name in found if found[name] != whole[name]}
    assert all(not keep(name) for name in changed)
    assert all(presets.FORMATS[found[name]].imatrix == "optional" for name in found if not keep(name))
    (note,) = (note for note in conversion.notes if "importance matrix" in note)
    assert "has no entry for" in note
    assert ("--no-mtp" in note) == (keep is LACKING["the MTP head"])
    assert changed or quant == "Q2_K_S"


def test_such_a_file_is_written_and_verified(checkpoint: Factory, tmp_path: Path) -> None:
    source = checkpoint()
    conversion = planned(source, of_checkpoint(source, keep=LACKING["the MTP head"]), tmp_path, "IQ2_XXS")
    hf_to_gguf.run(conversion)
    assert all(result.passed for result in verify.verify(conversion.files[0].path, source))


def test_without_the_head_nothing_is_lacking(checkpoint: Factory, tmp_path: Path) -> None:
    weights = of_checkpoint(checkpoint(), keep=LACKING["the MTP head"])
    conversion = planned(checkpoint(), weights, tmp_path, "IQ2_XXS", mtp=False)
    assert not any("importance matrix" in note for note in conversion.notes)


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q3_K_M", "IQ4_XS", "Q2_K"])
def test_a_type_that_needs_none_needs_no_note(checkpoint: Factory, tmp_path: Path, quant: str) -> None:
    weights = of_checkpoint(checkpoint(), keep=LACKING["the MTP head"])
    assert not any("importance matrix" in note for note in planned(checkpoint(), weights, tmp_path, quant).notes)


def test_an_entry_that_saw_no_input_counts_as_none(checkpoint: Factory, tmp_path: Path) -> None:
    source = checkpoint()
    weights = of_checkpoint(source)
    weights.entries["blk.1.ffn_up.weight"].counts[:] = 0
    conversion = planned(source, weights, tmp_path, "IQ2_XXS")
    assert types_of(conversion)["blk.1.ffn_up.weight"] == Type.Q2_K
    assert any("no entry for 1 tensors that need one, first blk.1.ffn_up.weight" in n for n in conversion.notes)


def test_experts_that_saw_no_input_are_a_note(checkpoint: Factory, tmp_path: Path) -> None:
    source = checkpoint(moe=True, vision=False)
    weights = of_checkpoint(source)
    for name in ("blk.1.ffn_up_exps.weight", "blk.1.ffn_down_exps.weight"):
        weights.entries[name].counts[:3] = 0
    conversion = planned(source, weights, tmp_path, "IQ2_XXS")
    assert any("3 experts of blk.1.ffn_" in note and "saw no input" in note for note in conversion.notes)
    hf_to_gguf.run(conversion)
    assert all(result.passed for result in verify.verify(conversion.files[0].path, source))


def test_inputs_that_were_all_zero_do_not_make_every_error_free(checkpoint: Factory, tmp_path: Path) -> None:
    source = checkpoint()
    weights = of_checkpoint(source)
    weights.entries["blk.1.ffn_up.weight"].sums[:] = 0
    assert (weights.importance("blk.1.ffn_up.weight", (512, 256)) == 1).all()
    conversion = planned(source, weights, tmp_path, "IQ2_XXS")
    hf_to_gguf.run(conversion)
    assert all(result.passed for result in verify.verify(conversion.files[0].path, source))


def test_the_older_format_has_the_experts_one_after_the_other(tmp_path: Path) -> None:
    values = np.random.default_rng(0).gamma(1.0, 5.0, (3, 8)).astype("<f4")
    name = b"blk.0.ffn_up_exps.weight"
    head = struct.pack("<i", 1) + struct.pack("<i", len(name)) + name + struct.pack("<ii", 2, values.size)
    (tmp_path / "i.dat").write_bytes(head + (2 * values).tobytes())
    found = imatrix.read(tmp_path / "i.dat").importance(name.decode(), (3, 16, 8))
    np.testing.assert_allclose(found, values, rtol=1e-6)
