"""Tied embeddings are written once, as transformers ties them when it loads the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from inputs import saved_tensors
from inputs.saved_tensors import Tensors, edit_json
from qwen35_gguf.convert import hf_to_gguf, verify
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.gguf_file.reader import read_header

Factory = Callable[..., Path]
EMBEDDING = "model.language_model.embed_tokens.weight"


def twice(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors[EMBEDDING].copy()


def once_more_in_float32(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors[EMBEDDING].astype(np.float32)


def differing(tensors: Tensors) -> None:
    twice(tensors)
    tensors["lm_head.weight"][-1, -1] += ml_dtypes.bfloat16(1)


def output_alone(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors.pop(EMBEDDING)


# What is saved, what config.json claims -> whether output.weight is written, and the words of the note.
CASES = {
    "equal, claimed": (twice, True, False, "written once"),
    "equal, not claimed": (twice, False, False, "written once"),
    "equal in another type": (once_more_in_float32, True, False, "written once"),
    "differing, claimed": (differing, True, True, "differs"),
    "differing, not claimed": (differing, False, True, ""),
    "the output matrix alone": (output_alone, True, False, "read from there"),
    "the embedding alone": (lambda _: None, True, False, ""),
}


def changed(
    checkpoint: Factory, tmp_path: Path, change: Callable[[Tensors], object], claimed: bool, **options: bool
) -> Path:
    def apply(tensors: Tensors) -> None:
        change(tensors)

    folder = saved_tensors.changed(checkpoint(**options), tmp_path / "in", apply)
    edit_json(folder / "config.json", lambda c: c.update(tie_word_embeddings=claimed))
    edit_json(folder / "config.json", lambda c: c["text_config"].update(tie_word_embeddings=claimed))
    return folder


@pytest.mark.parametrize(("change", "claimed", "written", "note"), CASES.values(), ids=CASES.keys())
def test_equal_matrices_are_written_once(
    checkpoint: Factory,
    tmp_path: Path,
    change: Callable[[Tensors], object],
    claimed: bool,
    written: bool,
    note: str,
) -> None:
    folder = changed(checkpoint, tmp_path, change, claimed)
    (file,) = hf_to_gguf.convert(folder, "Q8_0", tmp_path / "out", vision=False)
    assert ("output.weight" in {tensor.name for tensor in read_header(file).tensors}) == written
    notes = [one for one in open_checkpoint(folder).notes if "lm_head" in one]
    assert len(notes) == bool(note)
    assert note in "".join(notes)
    assert all(result.passed for result in verify.verify(file, folder))
    if not written:  # the file is that of the checkpoint as published
        (plain,) = hf_to_gguf.convert(checkpoint(), "Q8_0", tmp_path / "plain", vision=False)
        assert [t.nbytes for t in read_header(file).tensors] == [t.nbytes for t in read_header(plain).tensors]


@pytest.mark.parametrize(("change", "claimed"), [(c[0], c[1]) for c in CASES.values()], ids=CASES.keys())
def test_the_output_matrix_is_that_of_transformers(
    checkpoint: Factory, tmp_path: Path, change: Callable[[Tensors], object], claimed: bool
) -> None:
    import torch
    import transformers

    folder = changed(checkpoint, tmp_path, change, claimed)
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    opened = open_checkpoint(folder)
    output = "lm_head.weight" if "lm_head.weight" in opened.tensors else "embed_tokens.weight"
    np.testing.assert_array_equal(opened.read(output).astype(np.float32), model.lm_head.weight.detach().numpy())
    embedding = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(opened.read("embed_tokens.weight").astype(np.float32), embedding)
