"""`qwen35 inspect` and `qwen35 diff` against the gguf package's reader."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result

from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf

Factory = Callable[..., Path]


@pytest.fixture(scope="module")
def files(checkpoint: Factory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inspect")
    return {q: hf_to_gguf.convert(checkpoint(), q, folder, vision=False)[0] for q in ("F32", "Q4_K_M", "Q6_K")}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.unit
def test_inspect_reports_what_the_reader_reads(files: dict[str, Path], tmp_path: Path) -> None:
    found = json.loads(run("inspect", files["Q4_K_M"], "--json").stdout)
    reader = gguf.GGUFReader(files["Q4_K_M"])
    assert {t["name"]: (t["type"], t["shape"], t["bytes"]) for t in found["tensors"]} == {
        t.name: (t.tensor_type.name, t.shape[::-1].tolist(), t.n_bytes) for t in reader.tensors
    }
    for key, value in found["metadata"].items():
        assert value == pytest.approx(reader.fields[key].contents()), key
    bits = 8 * sum(t.n_bytes for t in reader.tensors) / sum(t.n_elements for t in reader.tensors)
    assert found["bits_per_weight"] == pytest.approx(float(bits))
    shown = run("inspect", files["Q4_K_M"], "--tensors", "--svg", tmp_path / "map.svg")
    assert shown.exit_code == 0, shown.stderr
    assert "blk.0.ssm_out.weight" in shown.stdout
    assert 'general.architecture = "qwen35"' in shown.stdout
    header = next(line for line in shown.stdout.splitlines() if line.startswith("layer "))
    first = next(line for line in shown.stdout.splitlines() if line.startswith("token_embd "))
    assert header.index("0") == first.index("█")  # numbers stand above their layers
    assert header[header.index("0") + 4 :].startswith("4") or len(first.split()[-1]) < 5
    texts = [text.text for text in ET.parse(tmp_path / "map.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {"layer", "0"} <= set(texts)
    cells = list(ET.parse(tmp_path / "map.svg").iter("{http://www.w3.org/2000/svg}title"))
    assert {cell.text.split(":")[0] for cell in cells} == {t.name for t in reader.tensors if len(t.shape) > 1}


@pytest.mark.unit
def test_shards_are_read_together(files: dict[str, Path], tmp_path: Path) -> None:
    assert run("split", files["Q4_K_M"], "-o", tmp_path, "--max-shard-size", "1MB").exit_code == 0
    first = min(tmp_path.glob("*-00001-of-*.gguf"))
    assert run("diff", files["Q4_K_M"], first).stdout == "no difference\n"
    assert json.loads(run("inspect", first, "--json").stdout)["tensors"]


@pytest.mark.unit
def test_diff_names_every_difference(files: dict[str, Path], tmp_path: Path) -> None:
    assert run("diff", files["F32"], files["F32"]).exit_code == 0
    changed = tmp_path / "changed.gguf"
    shutil.copy(files["Q4_K_M"], changed)
    assert run("metadata", changed, "set", "general.name", "Another").exit_code == 0
    reader = gguf.GGUFReader(changed, "r+")
    norm = next(t for t in reader.tensors if t.name == "blk.1.attn_norm.weight")
    norm.data[3] += np.float32(1)
    reader.data.flush()
    result = run("diff", files["Q4_K_M"], changed)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("~ general.name: ")
    assert lines[1].startswith("~ blk.1.attn_norm.weight: relative error ")
    assert lines[2] == "2 differences"


def test_diff_of_types_gives_the_error(files: dict[str, Path]) -> None:
    lines = run("diff", files["F32"], files["Q6_K"]).stdout.splitlines()
    line = next(line for line in lines if "blk.0.ffn_up.weight" in line)
    assert "F32 -> Q6_K relative error" in line
    full, packed = (
        gguf.dequantize(t.data, t.tensor_type)
        for file in ("F32", "Q6_K")
        for t in gguf.GGUFReader(files[file]).tensors
        if t.name == "blk.0.ffn_up.weight"
    )
    expected = np.linalg.norm(full - packed) / np.linalg.norm(full)
    assert float(line.split()[-1]) == pytest.approx(expected, rel=1e-2)
    assert "relative" not in run("diff", files["F32"], files["Q6_K"], "--no-values").stdout


@pytest.mark.unit
def test_bad_files_are_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(files["F32"].read_bytes()[:1000])
    for arguments in (("inspect", tmp_path / "x.gguf"), ("diff", files["F32"], tmp_path / "none.gguf")):
        result = run(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
