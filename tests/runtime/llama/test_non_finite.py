"""A NaN or an infinity anywhere in a model is an error that names the layer, not an endless text."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from qwen35_gguf import Qwen35
from qwen35_gguf.cli import main
from qwen35_gguf.errors import NonFiniteError
from qwen35_gguf.gguf_file.reader import read_header

# Weights, what is put into them, and what the message names.
BROKEN = {
    "a norm": ("blk.1.attn_norm.weight", np.nan, "layer 1 (blk.1.attn_norm.weight)"),
    "a delta net": ("blk.0.ssm_out.weight", np.nan, "layer 0 (blk.0.ssm_out.weight)"),
    "full attention": ("blk.3.attn_output.weight", np.inf, "layer 3 (blk.3.attn_output.weight)"),
    "a feed-forward network": ("blk.2.ffn_down.weight", -np.inf, "layer 2 (blk.2.ffn_down.weight)"),
    "numbers that are too large": ("blk.2.ffn_up.weight", 3e38, "layer 2 (blk.2.ffn_"),
    "the output": ("output.weight", np.nan, "the part outside of the layers (result_output)"),
}


@pytest.fixture
def broken(files: list[Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The tiny model with a row of a tensor that is not finite."""
    name, value, _ = BROKEN[request.param]
    path = Path(shutil.copy(files[0], tmp_path / "broken.gguf"))
    header = read_header(path)
    tensor = header.tensor(name)
    assert tensor is not None
    with path.open("r+b") as file:
        file.seek(header.data_start + tensor.offset)
        file.write(np.full(tensor.shape[-1], value, np.float32).tobytes())
    return path


@pytest.mark.parametrize("broken", BROKEN, indirect=True)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_error_names_the_layer(broken: Path, temperature: float, request: pytest.FixtureRequest) -> None:
    _, _, where = BROKEN[request.node.callspec.params["broken"]]
    with Qwen35(broken, n_ctx=512, n_threads=1, draft=0) as model:
        for _ in range(2):  # the second request is not the worse for the first
            with pytest.raises(NonFiniteError) as caught:
                model.generate("Hello there", max_tokens=4, temperature=temperature)
            assert str(caught.value).startswith(where), str(caught.value)
            assert "are not finite" in str(caught.value)


@pytest.mark.parametrize("broken", ["a delta net"], indirect=True)
def test_the_command_prints_one_line(broken: Path) -> None:
    result = CliRunner().invoke(main, ["run", str(broken), "Hi", "-n", "4", "--no-think", "--ctx", "512"])
    assert result.exit_code == 2
    assert "Error: layer 0 (blk.0.ssm_out.weight): computes numbers that are not finite" in result.stderr
    assert "!" not in result.stdout
