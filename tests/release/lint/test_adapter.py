"""Lint knows adapters: nothing is reported in a good one, and what llama.cpp refuses is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from gguf import GGMLQuantizationType

from inputs.adapters import low_rank, write_adapter
from qwen35_gguf.cli import main
from qwen35_gguf.convert.adapters.adapter_gguf import convert_adapter
from qwen35_gguf.gguf_file.header import TensorInfo
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.gguf_file.writer import write_gguf


def findings(file: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(CliRunner().invoke(main, ["lint", str(file), "--json"]).stdout)["findings"]
    return found


def test_adapters_are_checked_as_adapters(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", low_rank("layers.3.self_attn.o_proj", 256, 256))
    good = convert_adapter(folder, checkpoint(), tmp_path / "good.gguf", "Q8_0")
    assert findings(good) == []

    half = TensorInfo("blk.3.attn_output.weight.lora_a", (4, 256), GGMLQuantizationType.F32)
    write_gguf(tmp_path / "half.gguf", read_header(good).entries, [(half, np.full((4, 256), np.nan, np.float32))])
    first, second = findings(tmp_path / "half.gguf")
    assert "has no blk.3.attn_output.weight.lora_b beside it" in first["what"]
    assert "NaN" in second["what"] or "finite" in second["what"]
