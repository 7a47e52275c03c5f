"""`qwen35 convert --rounding`: the same bytes of file, less divergence, and only with moments of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import MomentsError
from qwen35_gguf.evaluation import collect_moments, kl_divergence
from qwen35_gguf.evaluation.collect_imatrix import weight_names
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data
from qwen35_gguf.quant import imatrix
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.moments import Moments

Factory = Callable[..., Path]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_to_gguf.convert(TINY, "F32", tmp_path_factory.mktemp("reference"), vision=False)[0]


@pytest.fixture(scope="module")
def moments(reference: Path) -> Moments:
    split = splitter(TINY / "calibration.txt", "calibration")
    out = reference.with_name("m.gguf")
    return collect_moments.collect(reference, split, out, kind="full", dataset="c", chunk=256, chunks=24, effects=False)


def test_a_rounded_file_has_the_same_layout_and_records_how(moments: Moments, tmp_path: Path) -> None:
    how = {"vision": False, "moments": moments.path}
    (made,) = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path / "block", rounding="block", **how)
    (again,) = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path / "again", rounding="block", jobs=1, **how)
    (plain,) = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path / "plain", vision=False)
    assert made.read_bytes() == again.read_bytes()
    first, second = read_header(made), read_header(plain)
    assert [(t.name, t.type, t.offset) for t in first.tensors] == [(t.name, t.type, t.offset) for t in second.tensors]
    assert first.value("quantize.rounding.kind") == "block"
    assert first.value("quantize.rounding.chunks_count") == 24
    assert first.value("quantize.imatrix.file") == moments.path.name  # moments are an importance matrix as well
    result = CliRunner().invoke(main, ["verify", str(made), "--against", str(TINY), "--no-parity"])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q3_K_M", "Q2_K"])
def test_a_rounded_file_diverges_less(reference: Path, moments: Moments, tmp_path: Path, quant: str) -> None:
    base = tmp_path / "base"
    split = splitter(TINY / "evaluation.txt", "evaluation")
    kl_divergence.save_reference(reference, split, base, chunk=256, chunks=24)
    importance = tmp_path / "i.gguf"
    imatrix.write(moments.importance(weight_names(read_header(reference))), importance)
    how: tuple[dict[str, Any], ...] = ({"imatrix": importance}, {"rounding": "block", "moments": moments.path})
    found = []
    for number, one in enumerate(how):
        (file,) = hf_to_gguf.convert(TINY, quant, tmp_path / str(number), vision=False, **one)
        found.append(kl_divergence.evaluate(file, base).mean.value)
    assert found[1] < 0.9 * found[0]


def test_moments_of_another_model_are_refused(moments: Moments, checkpoint: Factory, tmp_path: Path) -> None:
    other = checkpoint(tied=False)
    with pytest.raises(MomentsError, match="is of another model"):
        hf_to_gguf.convert(other, "Q4_K_M", tmp_path, rounding="block", moments=moments.path)
    assert not list(tmp_path.glob("*.gguf"))


def test_what_does_not_fit_is_one_line(moments: Moments, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["convert", str(TINY), "--no-vision", "-o", str(tmp_path), *arguments])
        assert result.exit_code == 2
        assert "Traceback" not in result.output
        return result.output

    assert "give --rounding block, full or sequential" in refused("--moments", str(moments.path))
    assert "give --rounding block, full or sequential" in refused("--rounding", "block")
    blocks = files.Provenance("block", moments.provenance.fingerprint, "")
    path = tmp_path / "b.gguf"
    files.write(path, blocks, files.widths_of(moments), (moments.entry(name) for name in moments.names))
    assert "has blocks only" in refused("--rounding", "full", "--moments", str(path))
    assert "not a file of moments" in refused("--rounding", "full", "--moments", str(tmp_path / "absent"))


@pytest.mark.parametrize(("damage", "reason"), [(np.nan, "non-finite"), (1e12, "indefinite")])
def test_damaged_moments_are_refused(moments: Moments, tmp_path: Path, damage: float, reason: str) -> None:
    def entries():  # type: ignore[no-untyped-def]
        for name in moments.names:
            sums = np.array(moments.sums(name))
            sums[0, 0, 1] = sums[0, 1, 0] = damage
            yield moments.entry(name)._replace(sums=sums)

    path = tmp_path / "bad.gguf"
    files.write(path, moments.provenance, files.widths_of(moments), entries())
    with pytest.raises(MomentsError, match=reason):
        hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path, vision=False, rounding="full", moments=path)
    assert [p.name for p in tmp_path.glob("*.gguf")] == ["bad.gguf"]


SHIFTED = "blk.3.ffn_up.weight"


def shifted_by(shift: float, moments: Moments, path: Path) -> Path:
    """Write moments as if of a model that is quantized up to each input, with a shift of one tensor."""
    shape = (moments.sums("blk.3.ffn_down.weight").shape[-1], moments.sums("blk.3.ffn_gate.weight").shape[-1])
    provenance = replace(moments.provenance, types=((SHIFTED, "Q4_K"),))
    shifts = {SHIFTED: np.full(shape, shift, ml_dtypes.bfloat16)}
    shrinkings = {name: value for name in moments.names if (value := moments.shrinking(name)) is not None}
    files.write(path, provenance, files.widths_of(moments), map(moments.entry, moments.names), shifts, shrinkings)
    return path


@pytest.mark.slow
def test_rows_are_shifted_before_they_are_rounded(moments: Moments, tmp_path: Path) -> None:
    imatrix.write(moments.importance([SHIFTED]), tmp_path / "i")

    def convert(rounding: str, file: Path) -> bytes:
        how: dict[str, Any] = {"rounding": rounding, "moments": file, "force": True, "imatrix": tmp_path / "i"}
        (made,) = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path / "made", vision=False, **how)
        header = read_header(made)
        return tensor_data(header, tensor, map_data(header)).tobytes() if (tensor := header.tensor(SHIFTED)) else b""

    full = convert("full", moments.path)
    assert convert("sequential", shifted_by(0, moments, tmp_path / "0.gguf")) == full
    assert convert("sequential", shifted_by(0.01, moments, tmp_path / "1.gguf")) != full
    assert files.read(tmp_path / "0.gguf").digest != files.read(tmp_path / "1.gguf").digest


def test_moments_after_quantized_layers_are_for_one_quantization(moments: Moments, tmp_path: Path) -> None:
    def refused(quant: str, rounding: str, file: Path, reason: str) -> None:
        with pytest.raises(MomentsError, match=reason):
            hf_to_gguf.convert(TINY, quant, tmp_path, vision=False, rounding=rounding, moments=file)
        assert not list(tmp_path.glob("Tiny*"))

    path = shifted_by(0.01, moments, tmp_path / "after.gguf")
    refused("Q5_K_M", "sequential", path, "in other types .blk.3.ffn_up.weight is Q4_K in it, Q5_K here")
    refused("Q4_K_M", "full", path, "use --rounding sequential")
    refused("Q4_K_M", "sequential", moments.path, "were collected without --sequential")
    damaged = shifted_by(np.nan, moments, tmp_path / "damaged.gguf")
    refused("Q4_K_M", "sequential", damaged, "blk.3.ffn_up.weight has a damaged shift")
