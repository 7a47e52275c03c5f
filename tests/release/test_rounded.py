"""A release that is rounded by second moments: made, made again, and extended, with the moments beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.evaluation import collect_moments
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.gguf_file.reader import read_header


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_rounded_release_is_made_again_and_extended(tmp_path: Path) -> None:
    (exact,) = hf_to_gguf.convert(TINY, "BF16", tmp_path, vision=False)
    split = splitter(TINY / "calibration.txt", "c")
    moments, other = (tmp_path / f"{name}.moments.gguf" for name in ("a", "b"))
    for path, chunks in ((moments, 2), (other, 3)):
        collect_moments.collect(exact, split, path, kind="block", dataset="c", chunk=256, chunks=chunks, effects=False)
    folder = tmp_path / "release"
    how = ["--rounding", "block", "--moments", moments]
    made = run("package", TINY, "-o", folder, "--quants", "Q4_K_M", "--no-vision", "--no-measure", *how)
    assert made.exit_code == 0, made.output
    (file,) = folder.glob("*-Q4_K_M.gguf")
    (single,) = hf_to_gguf.convert(TINY, "Q4_K_M", tmp_path, vision=False, rounding="block", moments=moments)
    first = read_header(file)
    data = sum(tensor.nbytes for tensor in first.tensors)
    assert file.read_bytes()[-data:] == single.read_bytes()[-data:]
    assert first.value("quantize.rounding.file") == first.value("quantize.imatrix.file") == "moments.gguf"
    assert json.loads((folder / "recipe.json").read_text())["options"]["rounding"] == "block"
    assert "rounded by second moments (block, " in (folder / "README.md").read_text()

    again = moments.rename(tmp_path / "renamed.gguf")
    assert run("verify-release", folder, "--against", TINY, "--moments", again).exit_code == 0
    assert "give its moments with --moments" in run("verify-release", folder, "--against", TINY).output
    wrong = run("verify-release", folder, "--against", TINY, "--moments", other)
    assert (wrong.exit_code, "are not the moments" in wrong.output) == (2, True)

    add = ["package", TINY, "-o", folder, "--add", "Q5_K_M", "--no-measure"]
    assert run(*add).exit_code == 2
    assert run(*add, "--moments", again).exit_code == 0
    assert read_header(next(folder.glob("*-Q5_K_M.gguf"))).value("quantize.rounding.kind") == "block"


@pytest.mark.unit
def test_moments_without_rounding_are_refused(tmp_path: Path) -> None:
    result = run("package", TINY, "-o", tmp_path / "r", "--moments", tmp_path / "m.gguf")
    assert (result.exit_code, "give --rounding block, full or sequential" in result.output) == (2, True)
