"""`qwen35 verify` compares outputs, and finds what comparing tensors against the same table cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from inputs import saved_layouts
from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.evaluation import parity

Factory = Callable[..., Path]


def test_a_conversion_has_the_outputs_of_its_checkpoint(tmp_path: Path) -> None:
    hf_to_gguf.convert(TINY, "F32", tmp_path)
    found = {one.output: one for one in parity.compare_with_checkpoint(next(tmp_path.glob("Tiny*.gguf")), TINY)}
    assert set(found) == {"logits", "MTP drafts", "image embeddings"}
    assert all(one.passed for one in found.values()), found
    assert "same top token 100.0 %" in found["logits"].figures


def test_the_command_reports_everything(tmp_path: Path) -> None:
    text, _ = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path)
    result = CliRunner().invoke(main, ["verify", str(text), "--against", str(TINY), "--parity"])
    assert result.exit_code == 0, result.output
    for what in ("logits: mean KL divergence", "MTP drafts: mean KL", "image embeddings: mmproj-", "PASS"):
        assert what in result.output


def test_what_config_json_says_of_another_part_does_not_matter(checkpoint: Factory, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint(), tmp_path / "tiny"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vision_config": "x"}))
    (file,) = hf_to_gguf.convert(folder, "F32", tmp_path / "out", vision=False, mtp=False)
    assert all(one.passed for one in parity.compare_with_checkpoint(file, folder))


def test_a_value_that_transformers_refuses_is_one_line(checkpoint: Factory, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint(vision=False), tmp_path / "tiny"))
    config = json.loads((folder / "config.json").read_text())
    (config.get("text_config") or config).update(initializer_range="wide")
    (folder / "config.json").write_text(json.dumps(config))
    (file,) = hf_to_gguf.convert(folder, "F32", tmp_path / "out")
    result = CliRunner().invoke(main, ["verify", str(file), "--against", str(folder), "--parity"])
    assert result.exit_code == 2, result.output
    assert "transformers does not accept it" in result.output


PUBLISHED: dict[str, saved_layouts.Layout] = {"published": lambda _: None}
DENSE = PUBLISHED | saved_layouts.DENSE | {"FP8": saved_layouts.as_fp8}
MLX = saved_layouts.rewritten(saved_layouts.as_mlx)
EXPERTS = PUBLISHED | saved_layouts.EXPERTS | {"FP8": saved_layouts.as_fp8, "MLX": MLX}
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("moe", "layout"),
    [
        *(pytest.param(False, layout, id=name, marks=SLOW) for name, layout in DENSE.items()),
        *(pytest.param(True, one, id=f"experts, {name}", marks=SLOW) for name, one in EXPERTS.items()),
        pytest.param(False, MLX, id="MLX"),
        pytest.param(True, saved_layouts.rewritten(saved_layouts.experts_one_by_one), id="experts one by one"),
    ],
)
def test_outputs_are_compared_however_the_weights_are_saved(
    checkpoint: Factory, tmp_path: Path, moe: bool, layout: saved_layouts.Layout
) -> None:
    folder = Path(shutil.copytree(checkpoint(moe=moe, vision=False), tmp_path / "tiny"))
    layout(folder)
    (file,) = hf_to_gguf.convert(folder, "F32", tmp_path / "out")
    found = {one.output: one for one in parity.compare_with_checkpoint(file, folder)}
    assert set(found) == ({"logits"} if layout is MLX else {"logits", "MTP drafts"})
    assert all(one.passed for one in found.values()), found


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        ("blk.0.ssm_out.weight", "logits"),
        ("blk.0.attn_norm.weight", "logits"),
        ("blk.8.nextn.hnorm.weight", "MTP drafts"),
    ],
)
def test_damage_shows_in_the_outputs(tmp_path: Path, tensor: str, what: str) -> None:
    (file,) = hf_to_gguf.convert(TINY, "BF16", tmp_path, vision=False)
    reader = gguf.GGUFReader(file, "r+")
    data = next(t.data for t in reader.tensors if t.name == tensor)
    if data.ndim == 1:
        data -= np.float32(1)  # the +1 of the norm is missing
    else:
        halves = data.view(np.uint16).reshape(data.shape[0], 2, 2, -1)  # two value heads change places
        halves[:] = halves[:, :, ::-1].copy()
    reader.data.flush()
    found = {one.output: one.passed for one in parity.compare_with_checkpoint(file, TINY)}
    assert not found[what]


def test_too_little_memory_for_the_checkpoint_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = hf_to_gguf.convert(TINY, "Q8_0", tmp_path, vision=False)
    monkeypatch.setattr(parity, "available_bytes", lambda: 1_000_000)
    arguments = ["verify", str(file), "--against", str(TINY)]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, "parity not tested" in result.output) == (0, True)
    asked = CliRunner().invoke(main, [*arguments, "--parity"])
    assert (asked.exit_code, "use --no-parity" in asked.stderr) == (2, True)
    shutil.rmtree(tmp_path)
