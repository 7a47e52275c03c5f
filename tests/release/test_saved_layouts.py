"""A release of a checkpoint whose weights are saved in another way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from inputs import saved_layouts
from qwen35_gguf.convert import verify
from qwen35_gguf.release import package, verify_release
from qwen35_gguf.release.plan import FromCheckpoint

pytestmark = pytest.mark.unit

Factory = Callable[..., Path]


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
