"""Importance matrices: files of either side are read, and used as llama-quantize uses them."""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inputs.importance_matrices import made, of_model
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import ImatrixError, QuantizationError
from qwen35_gguf.quant import imatrix, presets
from qwen35_gguf.quant.imatrix import Imatrix

Factory = Callable[..., Path]


def write_dat(found: Imatrix, path: Path) -> None:
    """The older format, as the comments of llama.cpp's loader describe it."""
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(found.entries)))
        for name, entry in found.entries.items():
            raw = name.encode()
            values = (entry.means() * found.chunks).astype("<f4")
            file.write(struct.pack("<i", len(raw)) + raw + struct.pack("<ii", found.chunks, values.size))
            file.write(values.tobytes())
        file.write(struct.pack("<i", found.chunks) + struct.pack("<i", 8) + b"wiki.txt")


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = made()
    imatrix.write(found, tmp_path / "i.gguf")
    again = imatrix.read(tmp_path / "i.gguf")
    assert (again.datasets, again.chunks, again.chunk_size) == (["wiki.txt"], 7, 512)
    for name, entry in found.entries.items():
        np.testing.assert_array_equal(again.entries[name].sums, entry.sums)
        np.testing.assert_array_equal(again.entries[name].counts, entry.counts)
    assert len(again.sha256) == 64


def test_it_has_the_names_and_shapes_that_llama_cpp_looks_for(tmp_path: Path) -> None:
    imatrix.write(made(), tmp_path / "i.gguf")
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert "general.architecture" not in reader.fields
    shapes = {t.name: (t.tensor_type.name, t.shape.tolist()) for t in reader.tensors}
    assert shapes["blk.0.e.weight.in_sum2"] == ("F32", [8, 3])
    assert shapes["blk.0.e.weight.counts"] == ("F32", [1, 3])
    for key, kind in (("chunk_count", "UINT32"), ("chunk_size", "UINT32"), ("datasets", "ARRAY")):
        assert reader.fields[f"imatrix.{key}"].types[0].name == kind


def test_the_older_format_gives_the_same_importance(tmp_path: Path) -> None:
    found = made(tensors={"blk.0.ffn_up.weight": (1, 32)})
    write_dat(found, tmp_path / "i.dat")
    old = imatrix.read(tmp_path / "i.dat")
    assert (old.datasets, old.chunks) == (["wiki.txt"], 7)
    expected = found.importance("blk.0.ffn_up.weight", (4, 32))
    np.testing.assert_allclose(old.importance("blk.0.ffn_up.weight", (4, 32)), expected, rtol=1e-6)


def test_an_expert_that_saw_nothing_counts_as_ones() -> None:
    found = Imatrix()
    found.add("e", np.array([[4.0, 8.0], [0.0, 0.0]]), np.array([2.0, 0.0]))
    np.testing.assert_array_equal(found.importance("e", (2, 5, 2)), [[2.0, 4.0], [1.0, 1.0]])


def test_merging_adds_sums_and_counts_up() -> None:
    total = imatrix.merge([made(0), made(1), made(2)])
    name = "blk.0.ffn_up.weight"
    assert total.chunks == 21
    np.testing.assert_allclose(total.entries[name].sums, sum(made(i).entries[name].sums for i in range(3)))
    with pytest.raises(ImatrixError, match="another shape"):
        imatrix.merge([made(0), made(1, {name: (1, 64)})])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), old=st.booleans())
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, data: st.DataObject, old: bool) -> None:
    path = tmp_path / "i"
    (write_dat if old else imatrix.write)(made(), path)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    with contextlib.suppress(ImatrixError):  # a flipped bit of a sum cannot be seen; any other error fails the test
        imatrix.read(path)


def test_sums_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    found = made()
    found.entries["blk.0.ffn_up.weight"].sums[0, 3] = -1
    imatrix.write(found, tmp_path / "i.gguf")
    with pytest.raises(ImatrixError, match=r"blk\.0\.ffn_up\.weight has negative"):
        imatrix.read(tmp_path / "i.gguf")


@pytest.mark.parametrize("values", [b"\0\0\x80\xbf", b""], ids=["negative", "truncated"])
def test_names_of_entries_do_not_fill_a_message(tmp_path: Path, values: bytes) -> None:
    name = b"\x1b[2J" * 250
    data = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 1, 1) + values
    (tmp_path / "i.dat").write_bytes(data)
    with pytest.raises(ImatrixError) as caught:
        imatrix.read(tmp_path / "i.dat")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def stock_quantize(source: Path, target: Path, quant: str, weights: Imatrix) -> Path:
    """llama-quantize --imatrix: the means, experts one after another."""
    entries = [(name, np.ascontiguousarray(e.means().reshape(-1))) for name, e in weights.entries.items()]
    array = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))()
    for place, (name, values) in zip(array, entries, strict=False):
        place.name, place.size = name.encode(), values.size
        place.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(presets.find_preset(quant).file_type), 2
    params.imatrix = array
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0
    return target


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q2_K_S", "Q4_0", "IQ4_NL", "IQ3_XXS", "IQ2_M"])
@pytest.mark.parametrize("moe", [False, True], ids=["dense", "experts"])
def test_tensors_equal_those_of_llama_quantize(checkpoint: Factory, tmp_path: Path, quant: str, moe: bool) -> None:
    source = checkpoint(value_heads_per_key=2, tied=False, moe=moe)
    (plain,) = hf_to_gguf.convert(source, "BF16", tmp_path / "plain", vision=False)
    weights = of_model(plain)
    imatrix.write(weights, tmp_path / "i.gguf")
    stock = stock_quantize(plain, tmp_path / "stock.gguf", quant, imatrix.read(tmp_path / "i.gguf"))
    (ours,) = hf_to_gguf.convert(source, quant, tmp_path, vision=False, imatrix=tmp_path / "i.gguf")
    expected = {t.name: t for t in gguf.GGUFReader(stock).tensors}
    for tensor in gguf.GGUFReader(ours).tensors:
        assert tensor.tensor_type == expected[tensor.name].tensor_type, tensor.name
        np.testing.assert_array_equal(tensor.data.ravel(), expected[tensor.name].data.ravel(), err_msg=tensor.name)


def test_the_file_says_which_matrix_was_used(checkpoint: Factory, tmp_path: Path) -> None:
    source = checkpoint()
    (plain,) = hf_to_gguf.convert(source, "BF16", tmp_path / "plain", vision=False)
    imatrix.write(of_model(plain), tmp_path / "i.gguf")
    (ours,) = hf_to_gguf.convert(source, "Q4_K_M", tmp_path, vision=False, imatrix=tmp_path / "i.gguf")
    fields = gguf.GGUFReader(ours).fields
    found = {key.removeprefix("quantize.imatrix."): fields[key].contents() for key in fields if "imatrix" in key}
    assert found["file"] == "i.gguf"
    assert found["dataset"] == "wiki.txt"
    assert found["chunks_count"] == 7
    assert found["sha256"] == imatrix.read(tmp_path / "i.gguf").sha256


def test_a_matrix_of_another_model_is_refused(checkpoint: Factory, tmp_path: Path) -> None:
    for weights, message in (
        (made(tensors={"blk.0.attn_q.weight.of.another": (1, 8)}), "has no entry for any tensor"),
        (made(tensors={"blk.0.ffn_up.weight": (1, 96)}), "another model"),
    ):
        imatrix.write(weights, tmp_path / "i.gguf")
        arguments = ["convert", str(checkpoint()), "-q", "Q4_K_M", "-o", str(tmp_path), "--imatrix"]
        result = CliRunner().invoke(main, [*arguments, str(tmp_path / "i.gguf")])
        assert result.exit_code == 2
        assert message in result.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["i.gguf"]


def test_a_type_that_needs_importance_is_refused_without(checkpoint: Factory, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="give one with --imatrix"):
        hf_to_gguf.convert(checkpoint(), "IQ2_M", tmp_path, vision=False)


@pytest.mark.parametrize("grown", ["chunks", "sums", "counts"])
def test_sums_that_no_file_holds_are_not_merged(tmp_path: Path, grown: str) -> None:
    found = made()
    if grown == "chunks":
        found.chunks = 2**32 - 1
    else:
        getattr(next(iter(found.entries.values())), grown)[...] = np.finfo(np.float32).max
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path in paths:
        imatrix.write(found, path)
    with pytest.raises(ImatrixError, match="larger than a file can hold"):
        imatrix.merge([imatrix.read(path) for path in paths])
    assert imatrix.merge([imatrix.read(paths[0])]).chunks == found.chunks
