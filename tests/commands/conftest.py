"""The demo model, a text and costs in a folder that may be changed, and a guard against work that should not begin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from inputs.adapters import low_rank, write_adapter
from oracles.paths import TINY
from qwen35_gguf import atomic_file
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.evaluation import collect_imatrix, kl_divergence, sensitivity
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.quant.search import solve
from qwen35_gguf.release import metadata_edit  # noqa: F401 (before `no_work`, whose substitutes it would keep)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("originals")
    hf_to_gguf.convert(TINY, "Q8_0", made)[0].rename(made / "model.gguf")
    next(made.glob("mmproj*")).rename(made / "mmproj-model.gguf")
    hf_to_gguf.convert(TINY, "BF16", made, vision=False)[0].rename(made / "exact.gguf")
    write_adapter(made / "adapter", low_rank("layers.0.mlp.up_proj", *_up_proj()))
    shards.split(made / "model.gguf", made, 5_000_000, prefix="part")
    (made / "text.txt").write_text((TINY / "evaluation.txt").read_text(encoding="utf-8")[:3000], encoding="utf-8")
    arguments = ["sensitivity", made / "exact.gguf", "-o", made / "costs.json", "--estimate"]
    assert CliRunner().invoke(main, [str(one) for one in arguments]).exit_code == 0
    return made


def _up_proj() -> tuple[int, int]:
    """Rows and columns of a matrix of the demo checkpoint."""
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    sizes = config.get("text_config", config)
    return sizes["intermediate_size"], sizes["hidden_size"]


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals, tmp_path / "folder")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long fails the test."""

    def begin(*_: object, **__: object) -> None:
        pytest.fail("work began")

    for module, name in (
        (hf_to_gguf, "write_files"),
        (kl_divergence, "save_reference"),
        (kl_divergence, "evaluate"),
        (collect_imatrix, "collect"),
        (sensitivity, "measure"),
        (sensitivity, "estimate"),
        (solve, "for_bits"),
        (hf_to_gguf, "run"),
    ):
        monkeypatch.setattr(module, name, begin)
    monkeypatch.setattr(atomic_file, "pending_file", begin)
    monkeypatch.setattr(shards, "pending_file", begin)
