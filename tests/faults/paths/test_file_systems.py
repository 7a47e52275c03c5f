"""The file systems of sticks and of Windows, exFAT and NTFS: what commands write there is what they write elsewhere.

Needs root, loop devices, and exfat-fuse and exfatprogs, or ntfs-3g.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.limits.small_runs import COMMANDS, inputs

from oracles.paths import TINY
from qwen35_gguf.cli import main

__all__ = ["inputs"]

pytestmark = pytest.mark.slow
SYSTEMS = {
    "exFAT": (["mkfs.exfat"], ["mount.exfat-fuse"]),
    "NTFS": (["mkfs.ntfs", "-F", "-Q", "-s", "512", "-p", "0"], ["ntfs-3g"]),
}
WRITING = {
    **{name: command for name, command in COMMANDS.items() if name not in ("run without drafts", "image", "plan")},
    "split": ("split", "{}/model.gguf", "-o", "{}/shards", "--max-shard-size", "2MB"),
    "merge": ("merge", "{}/shards/model-00001-of-00003.gguf", "-o", "{}/whole.gguf"),
    "metadata": ("metadata", "{}/whole.gguf", "set", "general.name", "longer than the name that was there before"),
    "checksum --write": ("checksum", "{}/shards", "--write"),
    "checksum": ("checksum", "{}/shards"),
    "package": ("package", str(TINY), "-o", "{}/release", "--quants", "Q4_0", "--no-measure", "--license", "mit"),
}


@pytest.fixture(params=SYSTEMS)
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A new file system of 400 MB."""
    make, mount = SYSTEMS[request.param]
    if missing := [tool for tool in (make[0], mount[0], "losetup") if shutil.which(tool) is None]:
        pytest.skip(f"{', '.join(missing)} is missing")
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    image, folder = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(400_000_000)
    folder.mkdir()
    subprocess.run([*make, str(image)], check=True, capture_output=True)
    command = ["losetup", "--show", "--find", str(image)]
    device = subprocess.run(command, capture_output=True, text=True)
    if device.returncode:
        pytest.skip("there are no loop devices")
    try:
        subprocess.run([*mount, device.stdout.strip(), str(folder)], check=True, capture_output=True)
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device.stdout.strip()], check=True)


def test_everything_is_written_as_elsewhere(inputs: Path, mounted: Path, tmp_path: Path) -> None:
    there, here = shutil.copytree(inputs, mounted / "there"), shutil.copytree(inputs, tmp_path / "here")
    for name, command in WRITING.items():
        for folder in (there, here):
            with pytest.raises(SystemExit) as ended:
                main([one.replace("{}", str(folder)) for one in command])
            assert ended.value.code == 0, name
    written, expected = (
        {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()} for folder in (there, here)
    )
    assert set(written) == set(expected)
    assert len(written) > len(list(inputs.iterdir())) + 10
    same = [name for name in written if written[name].read_bytes() == expected[name].read_bytes()]
    # States, costs and records of releases have times and paths.
    assert {name.suffix for name in set(written) - set(same)} <= {".state", ".json", ".md", ""}
    assert {name for name in written if name.suffix == ".gguf"} <= set(same)
