"""The file of costs: what was written is read, and every damage is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type

from inputs.json_damage import damaged_texts
from qwen35_gguf.errors import CostsError
from qwen35_gguf.quant.search import costs
from qwen35_gguf.quant.search.costs import Cost, Costs

pytestmark = pytest.mark.unit

MADE = Costs("a model", "its identity", 8, 1000, 64, 128, [Cost("blk.0.x", Type.Q4_K, 144, 0.5, 0.25)], False, "m.gguf")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    for made in (MADE, replace(MADE, costs=[], measured=True, imatrix="")):
        costs.write(made, tmp_path / "costs.json")
        assert costs.read(tmp_path / "costs.json") == made


def test_every_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    costs.write(MADE, path)
    whole = json.loads(path.read_text())
    for damage, text in damaged_texts(whole):
        path.write_text(text)
        message = ""
        try:
            costs.read(path)
        except CostsError as error:
            message = str(error)
        assert "\n" not in message
        assert not message or message.startswith(f"{path}: "), damage


def test_another_format_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    with pytest.raises(CostsError, match="No such file; give a file made by `qwen35 sensitivity`"):
        costs.read(path)
    path.write_text(json.dumps({"format": "another"}))
    with pytest.raises(CostsError, match='format is "another"; must be "qwen35 costs 1"'):
        costs.read(path)
    path.write_bytes(b"\xff")
    with pytest.raises(CostsError, match="is not UTF-8"):
        costs.read(path)
