"""Whether RMSNorm weights have the +1 already is decided by what they are, for each part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inputs import saved_layouts, saved_tensors
from inputs.saved_tensors import Tensors
from qwen35_gguf.architecture import Architecture
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.source_tensors.norms import is_shifted_norm
from qwen35_gguf.convert.tensor_map import text_rules
from qwen35_gguf.convert.tensor_plan import plan_tensors, published_weights

pytestmark = pytest.mark.unit

Factory = Callable[..., Path]


def plus_one(tensors: Tensors, part: str) -> Tensors:
    """Add 1 to the RMSNorm weights of `mtp.` or of the main model."""
    of_mtp = part == "mtp"
    return {
        name: (array.astype(np.float32) + 1).astype(array.dtype)
        if name.startswith("mtp.") == of_mtp and is_shifted_norm(name.removeprefix("model.language_model."))
        else array
        for name, array in tensors.items()
    }


def test_the_names_are_those_of_the_tensor_map(checkpoint: Factory) -> None:
    plan = plan_tensors(open_checkpoint(checkpoint(moe=True)))
    for rule in text_rules(plan.architecture):
        assert is_shifted_norm(rule.source) == ("plus_one" in rule.rule.operations), rule.source
    assert isinstance(plan.architecture, Architecture)
    assert not any(is_shifted_norm(name) for tensor in plan.vision for name in tensor.sources)


@pytest.mark.parametrize("shifted", [False, True])
def test_an_mtp_head_beside_an_mlx_export_has_the_form_that_its_values_show(
    checkpoint: Factory, tmp_path: Path, shifted: bool
) -> None:
    source = checkpoint(vision=False)

    def beside(tensors: Tensors) -> Tensors:
        head = plus_one(tensors, "mtp") if shifted else tensors
        return saved_layouts.as_mlx(tensors) | {name: head[name] for name in head if name.startswith("mtp.")}

    opened = open_checkpoint(saved_tensors.changed(source, tmp_path / "in", beside))
    assert (opened.norms_shifted, opened.mtp_norms_shifted) == (True, shifted)
    (note,) = (note for note in opened.notes if note.startswith("MLX export"))
    assert ("MTP head have not the +1" in note) == (not shifted)
    found = dict(published_weights(opened))
    for name, array in published_weights(open_checkpoint(source)):
        np.testing.assert_allclose(
            found[name].astype(np.float32), array.astype(np.float32), atol=2**-8, rtol=0, err_msg=name
        )


def test_an_export_whose_norms_were_left_alone(checkpoint: Factory, tmp_path: Path) -> None:
    def channels_last(tensors: Tensors) -> Tensors:
        return {name: np.moveaxis(a, 2, 1) if "conv1d" in name else a for name, a in tensors.items()}

    opened = open_checkpoint(saved_tensors.changed(checkpoint(), tmp_path / "in", channels_last))
    assert not opened.norms_shifted
    assert any("main model have not" in note for note in opened.notes)


def test_norms_around_one_in_a_plain_checkpoint_are_a_note(checkpoint: Factory, tmp_path: Path) -> None:
    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", lambda tensors: plus_one(tensors, "text"))
    opened = open_checkpoint(folder)
    assert not opened.norms_shifted
    assert any("RMSNorm weights are around 1" in note for note in opened.notes)
    assert not open_checkpoint(checkpoint()).notes
