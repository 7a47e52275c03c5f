"""The feed-forward networks of a vision encoder get zeros up to whole blocks of Q8_0; the 9B's need them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.convert import hf_to_gguf, transforms
from qwen35_gguf.convert.verify import verify

WIDTH, PADDED = 208, 224


@pytest.fixture(scope="module")
def source(make_checkpoint: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = make_checkpoint.build_spec(mtp=False)
    spec = replace(spec, vision=replace(spec.vision, intermediate_size=WIDTH))
    made: Path = make_checkpoint.make_checkpoint(tmp_path_factory.mktemp("padding") / "narrow", spec)
    return made


@pytest.mark.unit
@settings(deadline=None, max_examples=60)
@given(axis=st.sampled_from([0, 1]), size=st.integers(1, 70), more=st.integers(0, 40), other=st.integers(1, 5))
def test_padding_has_an_inverse_and_adds_zeros(axis: int, size: int, more: int, other: int) -> None:
    x = (
        np.random.default_rng(size)
        .integers(1, 1 << 16, (size, other) if axis == 0 else (other, size))
        .astype(np.uint16)
    )
    op = transforms.pad(axis, size, size + more)
    y = op.apply(x)
    assert op.shape(x.shape) == y.shape
    assert op.padding is not None
    np.testing.assert_array_equal(op.invert(y), x)
    assert not op.padding(y).any()
    assert op.padding(y).size == more * other


def test_q8_0_pads_and_other_types_do_not(source: Path, tmp_path: Path) -> None:
    for type_, width in (("BF16", WIDTH), ("Q8_0", PADDED)):
        _, file = hf_to_gguf.convert(source, "Q8_0", tmp_path, mmproj_type=type_, force=True)
        reader = GGUFReader(file)
        assert reader.fields["clip.vision.feed_forward_length"].contents() == width
        shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
        assert shapes["v.blk.0.ffn_up.weight"] == [128, width]
        assert shapes["v.blk.0.ffn_up.bias"] == [width]
        assert shapes["v.blk.0.ffn_down.weight"] == [width, 128]
        matrices = {t.tensor_type.name for t in reader.tensors if len(t.shape) == 2 and "position" not in t.name}
        assert matrices == {type_}
        assert all(result.passed for result in verify(file, source))


def test_verify_notices_padding_that_is_not_zero(source: Path, tmp_path: Path) -> None:
    _, file = hf_to_gguf.convert(source, "Q8_0", tmp_path, mmproj_type="Q8_0")
    reader = GGUFReader(file, "r+")
    for tensor in reader.tensors:
        if tensor.name == "v.blk.1.ffn_up.bias":
            tensor.data[-1] = 1e-3
    reader.data.flush()
    problems = {result.name: result.problem for result in verify(file, source) if not result.passed}
    assert problems == {"v.blk.1.ffn_up.bias": "is padded with values that are not zero"}


def test_a_padded_encoder_computes_what_transformers_computes(source: Path, tmp_path: Path) -> None:
    from oracles import vision

    gguf, mmproj = hf_to_gguf.convert(source, "F32", tmp_path, mmproj_type="Q8_0")
    images = [vision.image(128, 96, 0)]
    (expected,), (found,) = vision.reference(source, images), vision.embeddings(gguf, mmproj, images)
    similarity = (expected * found).sum(-1) / np.linalg.norm(expected, axis=-1) / np.linalg.norm(found, axis=-1)
    assert similarity.min() > 0.999
