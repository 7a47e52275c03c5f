"""A release of a checkpoint whose weights are saved in another way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from inputs import saved_layouts, saved_tensors
from inputs.saved_tensors import Tensors
from qwen35_gguf.cli import main
from qwen35_gguf.convert import verify
from qwen35_gguf.convert.source_tensors.names import canonical_name
from qwen35_gguf.convert.source_tensors.parts import MTP, TEXT, VISION, part_of
from qwen35_gguf.release import package, verify_release
from qwen35_gguf.release.plan import FromCheckpoint

Factory = Callable[..., Path]


def of(part: str, tensors: Tensors) -> list[str]:
    return [name for name in tensors if part_of(canonical_name(name)) == part]


def test_a_release_needs_no_part_that_it_leaves_out(checkpoint: Factory, tmp_path: Path) -> None:
    def damage(tensors: Tensors) -> Tensors:
        left = {of(part, tensors)[0] for part in (MTP, VISION)}
        return {name: array for name, array in tensors.items() if part_of(canonical_name(name)) == TEXT or name in left}

    folder = saved_tensors.changed(checkpoint(), tmp_path / "tiny", damage)
    arguments = ["package", str(folder), "--quants", "Q8_0", "--no-measure", "-o", str(tmp_path / "release")]
    runner = CliRunner()
    assert "--no-mtp leaves it out" in runner.invoke(main, [*arguments, "--no-vision"]).stderr
    assert "--no-vision leaves it out" in runner.invoke(main, [*arguments, "--no-mtp"]).stderr
    assert "leave one of them out" in runner.invoke(main, [*arguments, "--no-mtp", "--nomtp-files"]).stderr
    result = runner.invoke(main, [*arguments, "--no-mtp", "--no-vision"])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "release").glob("*.gguf"))) == 1
    assert verify_release.verify(tmp_path / "release", str(folder)) == []


def test_a_release_of_experts_saved_one_by_one(checkpoint: Factory, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint(moe=True, vision=False), tmp_path / "tiny"))
    saved_layouts.EXPERTS["one by one in shards"](folder)
    quants = FromCheckpoint(str(folder), ("Q8_0",), mtp_files=True, nomtp_files=True)
    made = package.package(quants, tmp_path / "release", package.PackageOptions(measure=False))
    files = [path for path in made if path.suffix == ".gguf"]
    assert len(files) == 3
    for path in files:
        if not path.name.startswith("mtp-"):
            assert all(result.passed for result in verify.verify(path, folder))
    assert verify_release.verify(tmp_path / "release", str(folder)) == []
